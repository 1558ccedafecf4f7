#include "file_common.h"

int main(void)
{
    char b[100];
    struct stat st;
    int fd = memfd_create("box", MFD_ALLOW_SEALING);
    T(fd);
    T(write(fd, "contents", 8));
    fstat(fd, &st);
    printf("%o %ld %d\n", st.st_mode, (long)st.st_size, (int)st.st_nlink);
    ssize_t n = readlink("/proc/self/fd/3", b, sizeof b);
    printf("%.*s\n", (int)n, b);
    T(fcntl(fd, F_GET_SEALS));
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    T(ftruncate(fd, 4));
    T(ftruncate(fd, 40));
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    T(ftruncate(fd, 50));
    T(pwrite(fd, "x", 1, 40));
    T(pwrite(fd, "x", 1, 0));
    char *m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    T(m == MAP_FAILED);
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    m[1] = 'Y';
    munmap(m, 4096);
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    T(pwrite(fd, "x", 1, 0));
    T(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
    T(pread(fd, b, 100, 0));
    printf("%.8s\n", b);
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    T(fcntl(fd, F_GET_SEALS));
    struct statfs figures;
    T(fstatfs(fd, &figures));
    printf("%ld blocks, %ld available, %ld files\n", (long)figures.f_blocks, (long)figures.f_bavail, (long)figures.f_files);
    int plain = memfd_create("", MFD_CLOEXEC);
    T(fcntl(plain, F_GETFD));
    T(fcntl(plain, F_GET_SEALS));
    T(fcntl(plain, F_ADD_SEALS, F_SEAL_WRITE));
    T(memfd_create("x", 0x1000));
    T(memfd_create("", ~0u));
    T(memfd_create("x", MFD_HUGETLB | 0x8 | 0x10));
    static char name[300];
    memset(name, 'n', 250);
    T(memfd_create(name, 0));
    name[249] = 0;
    T(memfd_create(name, 0));
    T(memfd_create((char *)8, 0));
    T(fcntl(fd, F_ADD_SEALS, 0x1000));
    return 0;
}
