#include "file_common.h"

static int lk(int fd, int cmd, int type, int pid)
{
    struct flock l = {.l_type = type, .l_pid = pid};
    int r = fcntl(fd, cmd, &l);
    if (cmd == F_OFD_GETLK && r == 0)
        printf("type %d pid %d\n", l.l_type, l.l_pid);
    return r;
}

int main(void)
{
    put_file("f", "x");
    int a = open("f", O_RDWR), b = open("f", O_RDWR), ro = open("f", O_RDONLY);
    T(lk(a, F_OFD_SETLK, F_WRLCK, 0));
    T(lk(b, F_OFD_SETLK, F_WRLCK, 0));
    T(lk(b, F_OFD_GETLK, F_WRLCK, 0));
    T(lk(a, F_OFD_GETLK, F_WRLCK, 0));
    T(lk(a, F_OFD_SETLK, F_WRLCK, 5));
    T(lk(ro, F_OFD_SETLK, F_WRLCK, 0));
    T(lk(b, F_SETLK, F_RDLCK, 0));
    int c = dup(a);
    close(a);
    T(lk(b, F_OFD_SETLK, F_RDLCK, 0));
    fflush(stdout);
    if (fork() == 0)
        exit(0);
    wait(0);
    T(lk(b, F_OFD_SETLK, F_RDLCK, 0));
    close(c);
    T(lk(b, F_OFD_SETLK, F_RDLCK, 0));
    T(lk(ro, F_OFD_SETLK, F_RDLCK, 0));
    T(lk(b, F_OFD_SETLK, F_WRLCK, 0));
    T(lk(ro, F_OFD_SETLK, F_UNLCK, 0));
    T(lk(b, F_OFD_SETLKW, F_WRLCK, 0));
    return 0;
}
