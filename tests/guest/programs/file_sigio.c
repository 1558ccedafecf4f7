#include "file_common.h"

static volatile int hits, last_fd, last_code;
static void on_signal(int s, siginfo_t *si, void *u)
{
    hits++;
    last_fd = si->si_fd;
    last_code = si->si_code;
}

int main(void)
{
    char b[10];
    int p[2];
    pipe(p);
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGIO, &sa, 0);
    sigaction(SIGUSR1, &sa, 0);
    T(fcntl(p[0], F_SETFL, O_ASYNC));
    T(fcntl(p[0], F_GETFL) & O_ASYNC ? 1 : 0);
    T(write(p[1], "a", 1));
    printf("hits %d\n", hits);
    read(p[0], b, 10);
    T(fcntl(p[0], F_SETOWN, getpid()));
    T(write(p[1], "a", 1));
    printf("hits %d\n", hits);
    read(p[0], b, 10);
    T(fcntl(p[0], F_SETSIG, SIGUSR1));
    T(write(p[1], "a", 1));
    printf("hits %d fd %d code %d\n", hits, last_fd == p[0], last_code == POLL_IN);
    read(p[0], b, 10);
    T(fcntl(p[0], F_SETFL, 0));
    T(write(p[1], "a", 1));
    printf("hits %d\n", hits);
    put_file("f", "x");
    int fd = open("f", O_RDWR), n = 1;
    T(fcntl(fd, F_SETFL, O_ASYNC));
    T(fcntl(fd, F_GETFL) & O_ASYNC ? 1 : 0);
    T(ioctl(fd, FIOASYNC, &n));
    return 0;
}
