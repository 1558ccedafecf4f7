#include "file_common.h"

int main(void)
{
    char a[10], b[10], c[10];
    struct iovec v[3] = {{"one", 3}, {"", 0}, {"three", 5}};
    int fd = open("f", O_RDWR | O_CREAT, 0600);
    T(writev(fd, v, 3));
    T(lseek(fd, 0, SEEK_SET));
    struct iovec r[3] = {{a, 2}, {b, 4}, {c, 10}};
    T(readv(fd, r, 3));
    printf("%.2s|%.4s|%.2s\n", a, b, c);
    T(readv(fd, r, 3));
    T(readv(fd, r, 0));
    T(readv(fd, r, -1));
    T(readv(fd, r, 1025));
    T(readv(-1, r, 1));
    T(readv(fd, (void *)16, 1));
    r[1].iov_len = -1;
    T(preadv(fd, r, 3, 0));
    r[1].iov_len = 4;
    r[1].iov_base = (void *)16;
    T(pwritev(fd, r, 3, 100));
    r[0].iov_base = (void *)16;
    T(pwritev(fd, r, 3, 100));
    T(preadv(fd, r, 3, 0));
    T(pwritev(fd, v, 3, 20));
    T(lseek(fd, 0, SEEK_CUR));
    T(lseek(fd, 0, SEEK_END));
    T(preadv(fd, v, 1, -2));
    int p[2];
    pipe(p);
    T(preadv(p[0], v, 1, 0));
    T(writev(p[1], v, 3));
    r[0].iov_base = a;
    r[1].iov_base = b;
    T(readv(p[0], r, 3));
    T(writev(p[0], v, 3));
    int d = open(".", O_RDONLY);
    T(readv(d, r, 3));
    static struct iovec many[1024];
    static char bytes[1024];
    for (int i = 0; i < 1024; i++)
        many[i] = (struct iovec){bytes + i, 1};
    T(pwritev(fd, many, 1024, 0));
    return 0;
}
