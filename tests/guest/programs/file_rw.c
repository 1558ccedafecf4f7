#include "file_common.h"

int main(void)
{
    char b[100] = "0123456789";
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    T(write(fd, b, 10));
    T(read(fd, b, 10));
    T(lseek(fd, 0, SEEK_SET));
    T(read(fd, b, 4));
    T(read(fd, b, 100));
    T(read(fd, b, 0));
    T(write(fd, b, 0));
    T(read(-1, b, 1));
    T(read(500, b, 1));
    T(write(500, b, 1));
    T(read(fd, (void *)16, 1));
    lseek(fd, 0, SEEK_SET);
    T(read(fd, (void *)16, 1));
    lseek(fd, 0, SEEK_SET);
    T(read(fd, (void *)-4096L, 1));
    T(write(fd, (void *)16, 1));
    T(read(fd, b, -1));
    T(write(fd, b, -1));
    T(lseek(fd, 0, SEEK_CUR));
    int ro = open("f", O_RDONLY), wo = open("f", O_WRONLY);
    T(write(ro, b, 1));
    T(read(wo, b, 1));
    T(write(ro, b, 0));
    int d = open(".", O_RDONLY);
    T(read(d, b, 1));
    T(write(d, b, 1));
    /* A buffer whose second page is not mapped: the bytes that fit are transferred. */
    char *m = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(m + 4096, 4096);
    lseek(fd, 0, SEEK_SET);
    T(write(fd, m + 4090, 6));
    T(write(fd, m + 4090, 20) > 0);
    T(lseek(fd, 4094, SEEK_SET));
    T(write(fd, "abc", 3));
    T(lseek(fd, 0, SEEK_END));
    show_file("f");
    int z = open("/dev/zero", O_RDONLY), n = open("/dev/null", O_RDWR);
    T(read(z, b, 50));
    T(write(n, b, 50));
    T(read(n, b, 50));
    return 0;
}
