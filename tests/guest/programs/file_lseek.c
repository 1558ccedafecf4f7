#include "file_common.h"

int main(void)
{
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    T(write(fd, "0123456789", 10));
    T(lseek(fd, 3, SEEK_SET));
    T(lseek(fd, 3, SEEK_CUR));
    T(lseek(fd, -7, SEEK_CUR));
    T(lseek(fd, -2, SEEK_END));
    T(lseek(fd, 100, SEEK_END));
    T(lseek(fd, -1, SEEK_SET));
    T(lseek(fd, 0, 5));
    T(lseek(fd, 0, -1));
    T(lseek(-1, 0, 0));
    T(lseek(fd, 0, SEEK_DATA));
    T(lseek(fd, 10, SEEK_DATA));
    T(lseek(fd, 0, SEEK_HOLE));
    T(lseek(fd, 20, SEEK_HOLE));
    T(lseek(fd, -1, SEEK_DATA));
    T(ftruncate(fd, 4 << 20));
    T(pwrite(fd, "x", 1, 2 << 20));
    T(lseek(fd, 8 << 10, SEEK_DATA));
    T(lseek(fd, 0, SEEK_HOLE) > 0);
    T(lseek(fd, (3 << 20), SEEK_DATA));
    int p[2];
    pipe(p);
    T(lseek(p[0], 0, SEEK_SET));
    T(lseek(p[0], 0, 99));
    int s[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    T(lseek(s[0], 0, SEEK_CUR));
    int d = open(".", O_RDONLY);
    T(lseek(d, 0, SEEK_SET));
    int n = open("/dev/null", O_RDONLY);
    T(lseek(n, 5, SEEK_SET));
    return 0;
}
