#include "file_common.h"

int main(void)
{
    char b[10];
    struct iovec v = {b, 5}, w = {"abcde", 5};
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    T(pwritev2(fd, &w, 1, 0, 0));
    T(pwritev2(fd, &w, 1, -1, 0));
    T(lseek(fd, 0, SEEK_CUR));
    T(preadv2(fd, &v, 1, -1, 0));
    T(lseek(fd, 0, SEEK_SET));
    T(preadv2(fd, &v, 1, -1, 0));
    T(lseek(fd, 0, SEEK_CUR));
    T(preadv2(fd, &v, 1, 0, 0x40000000));
    T(pwritev2(fd, &w, 1, 0, RWF_APPEND));
    T(lseek(fd, 0, SEEK_END));
    T(lseek(fd, 0, SEEK_SET));
    T(pwritev2(fd, &w, 1, -1, RWF_APPEND));
    T(lseek(fd, 0, SEEK_CUR));
    T(pwritev2(fd, &w, 1, 0, RWF_SYNC));
    T(pwritev2(fd, &w, 1, 0, RWF_DSYNC));
    T(preadv2(fd, &v, 1, 0, RWF_HIPRI));
    T(preadv2(fd, &v, 1, -2, 0));
    int p[2];
    pipe(p);
    T(preadv2(p[0], &v, 1, -1, RWF_NOWAIT));
    T(pwritev2(p[1], &w, 1, -1, 0));
    T(preadv2(p[0], &v, 1, -1, RWF_NOWAIT));
    T(preadv2(p[0], &v, 1, 0, 0));
    show_file("f");
    return 0;
}
