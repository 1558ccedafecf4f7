#include "file_common.h"

static int lk(int fd, int cmd, int type, long start, long len)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
    return fcntl(fd, cmd, &l);
}

static void get(int fd, int type, long start, long len)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len, .l_pid = 77};
    if (fcntl(fd, F_GETLK, &l))
        printf("getlk %s\n", strerrorname_np(errno));
    else if (l.l_type == F_UNLCK)
        printf("free %ld %ld %d\n", (long)l.l_start, (long)l.l_len, (int)l.l_pid);
    else
        printf("held %d %d %ld %ld parent %d\n", l.l_type, l.l_whence, (long)l.l_start, (long)l.l_len, l.l_pid == getppid());
    fflush(stdout);
}

int main(void)
{
    put_file("f", "0123456789");
    int fd = open("f", O_RDWR), ro = open("f", O_RDONLY), wo = open("f", O_WRONLY);
    T(lk(fd, F_SETLK, F_WRLCK, 10, 20));
    T(lk(fd, F_SETLK, F_RDLCK, 15, 5));
    T(lk(fd, F_SETLK, F_RDLCK, 100, 0));
    T(lk(ro, F_SETLK, F_WRLCK, 0, 1));
    T(lk(wo, F_SETLK, F_RDLCK, 0, 1));
    T(lk(fd, F_SETLK, 7, 0, 1));
    T(lk(fd, F_SETLK, F_RDLCK, -1, 1));
    T(lk(fd, F_SETLK, F_RDLCK, 5, -6));
    T(lk(fd, F_SETLK, F_RDLCK, 5, -5));
    T(lk(fd, F_SETLK, F_RDLCK, LONG_MAX, 2));
    T(lk(-1, F_SETLK, F_RDLCK, 0, 1));
    T(fcntl(fd, F_SETLK, 8));
    fflush(stdout);
    if (fork() == 0) {
        get(fd, F_WRLCK, 0, 0);
        get(fd, F_WRLCK, 10, 3);
        get(fd, F_RDLCK, 15, 5);
        get(fd, F_WRLCK, 15, 5);
        get(fd, F_WRLCK, 30, 70);
        get(fd, F_WRLCK, 1000, 5);
        get(fd, F_UNLCK, 0, 5);
        T(lk(fd, F_SETLK, F_RDLCK, 12, 1));
        T(lk(fd, F_SETLK, F_RDLCK, 16, 1));
        T(lk(fd, F_SETLK, F_WRLCK, 40, 1));
        exit(0);
    }
    wait(0);
    T(lk(fd, F_SETLK, F_WRLCK, 40, 1));
    T(close(ro)); /* drops them all */
    fflush(stdout);
    if (fork() == 0) {
        get(fd, F_WRLCK, 0, 0);
        struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_END, .l_start = -3, .l_len = 2};
        T(fcntl(fd, F_SETLK, &l));
        exit(0);
    }
    wait(0);
    get(fd, F_WRLCK, 0, 0);
    return 0;
}
