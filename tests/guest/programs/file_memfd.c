#include "file_common.h"
#include <sys/mman.h>
#include <sys/wait.h>

/* What may still be written through mappings that were made before or after a seal; small and large files. */
static void seal_and_map(long size, int seal, int is_mapped_before)
{
    printf("%ld bytes, seal %d\n", size, seal);
    int fd = memfd_create("sealed", MFD_ALLOW_SEALING);
    ftruncate(fd, size);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int only_read = open(path, O_RDONLY);
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    if (is_mapped_before) {
        char *before = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
        T(fcntl(fd, F_ADD_SEALS, seal));
        munmap(before, 4096);
    }
    T(fcntl(fd, F_ADD_SEALS, seal));
    char *foreign = mmap(0, 4096, PROT_READ, MAP_SHARED, only_read, 0);
    T(mprotect(foreign, 4096, PROT_READ | PROT_WRITE));
    char *after = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    T(after == MAP_FAILED ? -1 : 0);
    if (after != MAP_FAILED) {
        T(mprotect(after, 4096, PROT_READ | PROT_WRITE));
        T(mprotect(after, 4096, PROT_NONE));
        T(mprotect(after, 4096, PROT_WRITE));
        char *moved = mremap(after, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, foreign);
        T(moved == foreign ? 0 : -1);
        T(mprotect(moved, 4096, PROT_READ | PROT_WRITE));
        pid_t child = fork();
        if (child == 0)
            _exit(mprotect(moved, 4096, PROT_READ | PROT_WRITE) ? errno : 0);
        int status;
        waitpid(child, &status, 0);
        printf("in a child: %d\n", WEXITSTATUS(status));
        munmap(moved, 4096);
    }
    T(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
    char *copy = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    T(mprotect(copy, 4096, PROT_READ | PROT_WRITE));
    copy[0] = 1;
    char b[1];
    pread(fd, b, 1, 0);
    T(b[0]);
    T(open(path, O_RDWR) >= 0 ? 0 : -1);
    T(pwrite(fd, "x", 1, 0));
    T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    close(fd);
}

/* A writable mapping that is older than F_SEAL_FUTURE_WRITE stays what it is. */
static void older_mapping(void)
{
    int fd = memfd_create("older", MFD_ALLOW_SEALING);
    ftruncate(fd, 8192);
    char *old = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    T(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    old[0] = 'o';
    T(mprotect(old, 4096, PROT_READ));
    T(mprotect(old, 4096, PROT_READ | PROT_WRITE));
    old[0]++;
    char b[1];
    pread(fd, b, 1, 0);
    printf("%c\n", b[0]);
    T(pwrite(fd, "x", 1, 0));
}

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
    for (int before = 0; before < 2; before++) {
        seal_and_map(4096, F_SEAL_WRITE, before);
        seal_and_map(4096, F_SEAL_FUTURE_WRITE, before);
        seal_and_map(4 << 20, F_SEAL_WRITE, before);
    }
    older_mapping();
    return 0;
}
