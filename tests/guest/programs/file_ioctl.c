#include "file_common.h"

int main(void)
{
    int n = -1;
    put_file("f", "0123456789");
    int fd = open("f", O_RDWR), d = open(".", O_RDONLY), p[2];
    pipe(p);
    T(ioctl(fd, FIONREAD, &n));
    printf("%d\n", n);
    lseek(fd, 4, SEEK_SET);
    T(ioctl(fd, FIONREAD, &n));
    printf("%d\n", n);
    write(p[1], "abc", 3);
    T(ioctl(p[0], FIONREAD, &n));
    printf("%d\n", n);
    T(ioctl(d, FIONREAD, &n));
    T(ioctl(fd, FIONREAD, 8));
    T(ioctl(fd, FIGETBSZ, &n));
    printf("%d\n", n >= 512);
    T(ioctl(fd, TCGETS, &n));
    T(ioctl(p[0], TCGETS, &n));
    T(ioctl(d, TCGETS, &n));
    T(isatty(fd));
    T(ioctl(fd, TIOCGWINSZ, &n));
    T(ioctl(fd, 0x12345678, &n));
    T(ioctl(-1, FIONREAD, &n));
    long q = 0;
    T(ioctl(fd, FIOQSIZE, &q));
    T(ioctl(p[0], FIOQSIZE, &q));
    n = 1;
    T(ioctl(fd, FIONBIO, &n));
    T(fcntl(fd, F_GETFL) & O_NONBLOCK ? 1 : 0);
    T(ioctl(fd, FIOASYNC, &n));
    n = 0;
    T(ioctl(fd, FIONBIO, &n));
    T(ioctl(p[0], FICLONE, fd));
    int appending = open("appending", O_RDWR | O_CREAT | O_APPEND, 0600);
    T(ioctl(appending, FICLONE, fd));
    close(appending);
    T(ioctl(fd, FICLONE, d));
    T(ioctl(fd, FICLONE, -1));
    return 0;
}
