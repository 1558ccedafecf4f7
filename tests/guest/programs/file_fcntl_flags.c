#include "file_common.h"

#define GETFL(fd) printf(#fd " %o\n", fcntl(fd, F_GETFL))

int main(void)
{
    put_file("f", "x");
    int a = open("f", O_RDWR | O_CLOEXEC | O_CREAT | O_TRUNC | O_NOCTTY, 0600);
    int b = open("f", O_WRONLY | O_APPEND | O_NONBLOCK);
    int c = open("f", O_RDONLY | O_SYNC);
    int d = open(".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    int p[2], q[2];
    pipe2(p, O_NONBLOCK | O_CLOEXEC);
    pipe2(q, O_DIRECT);
    GETFL(a);
    GETFL(b);
    GETFL(c);
    GETFL(d);
    GETFL(p[0]);
    GETFL(p[1]);
    GETFL(q[1]);
    T(fcntl(a, F_SETFL, O_APPEND | O_NONBLOCK | O_WRONLY | O_EXCL | O_SYNC));
    GETFL(a);
    T(fcntl(a, F_SETFL, 0));
    GETFL(a);
    T(fcntl(c, F_SETFL, 0));
    GETFL(c);
    T(fcntl(b, F_SETFL, O_NOATIME));
    GETFL(b);
    int on = 1, off = 0;
    T(ioctl(p[0], FIONBIO, &off));
    GETFL(p[0]);
    T(ioctl(p[0], FIONBIO, &on));
    GETFL(p[0]);
    T(ioctl(p[0], FIONBIO, 8));
    T(fcntl(-1, F_GETFL));
    T(fcntl(a, 12345));
    T(fcntl(p[0], F_GETPIPE_SZ));
    T(fcntl(p[0], F_SETPIPE_SZ, 5000));
    T(fcntl(p[1], F_GETPIPE_SZ));
    T(fcntl(p[0], F_SETPIPE_SZ, 0));
    T(fcntl(p[0], F_SETPIPE_SZ, -1));
    T(fcntl(a, F_GETPIPE_SZ));
    T(fcntl(a, F_GET_SEALS) == 1 || errno == EINVAL);
    T(fcntl(p[0], F_GET_SEALS));
    T(fcntl(a, F_NOTIFY, 0));
    return 0;
}
