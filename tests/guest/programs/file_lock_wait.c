#include "file_common.h"

static int lk(int fd, int cmd, int type, long start, long len)
{
    struct flock l = {.l_type = type, .l_start = start, .l_len = len};
    return fcntl(fd, cmd, &l);
}

static void on_alarm(int s) {}

int main(void)
{
    put_file("f", "0123456789");
    int fd = open("f", O_RDWR), p[2], q[2];
    char c;
    pipe(p);
    pipe(q);
    T(lk(fd, F_SETLK, F_WRLCK, 0, 1));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int a = lk(fd, F_SETLK, F_WRLCK, 1, 1);
        write(p[1], "x", 1);
        int b = lk(fd, F_SETLKW, F_WRLCK, 0, 1);
        read(q[0], &c, 1);
        exit(a == 0 && b == 0 ? 7 : 8);
    }
    read(p[0], &c, 1);
    /* The child waits, or soon will, for the parent's lock: one of the two must get the error. */
    struct timespec nap = {0, 100000000};
    nanosleep(&nap, 0);
    T(lk(fd, F_SETLKW, F_WRLCK, 1, 1));
    T(lk(fd, F_SETLK, F_UNLCK, 0, 1));
    nanosleep(&nap, 0);
    T(lk(fd, F_SETLK, F_WRLCK, 0, 1));
    struct sigaction sa = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &sa, 0);
    struct itimerval it = {{0, 0}, {0, 50000}};
    setitimer(ITIMER_REAL, &it, 0);
    T(lk(fd, F_SETLKW, F_WRLCK, 0, 1));
    write(q[1], "x", 1);
    T(lk(fd, F_SETLKW, F_WRLCK, 0, 2));
    int st;
    wait(&st);
    printf("child %d\n", WEXITSTATUS(st));
    return 0;
}
