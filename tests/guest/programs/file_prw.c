#include "file_common.h"

int main(void)
{
    char b[100];
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    T(pwrite(fd, "hello", 5, 3));
    T(lseek(fd, 0, SEEK_CUR));
    T(pread(fd, b, 10, 0));
    printf("%d%d%d %.5s\n", b[0], b[1], b[2], b + 3);
    T(pread(fd, b, 10, 100));
    T(pread(fd, b, 10, -1));
    T(pwrite(fd, b, 10, -1));
    T(pwrite(fd, b, 10, LONG_MAX));
    T(pwrite(fd, b, 10, LONG_MAX - 5));
    T(pread(fd, b, 10, LONG_MAX - 5));
    T(pread(-1, b, 1, -1));
    T(pread(fd, b, 0, 0));
    int p[2];
    pipe(p);
    T(pread(p[0], b, 1, 0));
    T(pwrite(p[1], b, 1, 0));
    T(pread(p[1], b, 1, 0));
    int a = open("f", O_RDWR | O_APPEND);
    T(pwrite(a, "END", 3, 0));
    T(lseek(a, 0, SEEK_CUR));
    T(write(a, "!", 1));
    T(lseek(a, 0, SEEK_CUR));
    T(pread(fd, b, 100, 8));
    printf("%.4s\n", b);
    T(lseek(a, 0, SEEK_SET));
    T(read(a, b, 4));
    T(write(a, "?", 1));
    T(lseek(fd, 0, SEEK_END));
    return 0;
}
