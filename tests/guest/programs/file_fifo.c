#include "file_common.h"

static void on_alarm(int s) {}

int main(void)
{
    char b[100];
    mkfifo("p", 0600);
    T(open("p", O_WRONLY | O_NONBLOCK));
    int r = open("p", O_RDONLY | O_NONBLOCK);
    T(r);
    T(read(r, b, 10));
    int w = open("p", O_WRONLY | O_NONBLOCK);
    T(w);
    T(read(r, b, 10));
    T(write(w, "abc", 3));
    T(read(r, b, 10));
    close(w);
    T(read(r, b, 10));
    close(r);
    int rw = open("p", O_RDWR);
    T(rw);
    T(write(rw, "self", 4));
    T(read(rw, b, 10));
    close(rw);
    fflush(stdout);
    if (fork() == 0) {
        struct timespec nap = {0, 30000000};
        nanosleep(&nap, 0);
        int fd = open("p", O_WRONLY);
        write(fd, "hello", 5);
        exit(0);
    }
    int fd = open("p", O_RDONLY);
    T(fd);
    T(read(fd, b, 100));
    T(read(fd, b, 100));
    close(fd);
    wait(0);
    struct sigaction sa = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &sa, 0);
    struct itimerval it = {{0, 0}, {0, 30000}};
    setitimer(ITIMER_REAL, &it, 0);
    T(open("p", O_RDONLY));
    T(open("p", O_WRONLY | O_NONBLOCK));
    setitimer(ITIMER_REAL, &it, 0);
    T(open("p", O_WRONLY));
    T(unlink("p"));
    return 0;
}
