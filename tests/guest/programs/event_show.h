/* SHOW(call): the call as text, its result, and the name of its error. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SHOW(call)                                                                                                \
    do {                                                                                                          \
        errno = 0;                                                                                                \
        long result_ = (long)(call);                                                                              \
        printf("%s = %ld%s%s\n", #call, result_, result_ < 0 ? " " : "", result_ < 0 ? strerrorname_np(errno) : ""); \
        fflush(stdout);                                                                                           \
    } while (0)

static inline const char *bits(short events)
{
    static char text[128];
    snprintf(text, sizeof text, "%s%s%s%s%s%s", events & POLLIN ? "IN " : "", events & POLLOUT ? "OUT " : "",
             events & POLLPRI ? "PRI " : "", events & POLLERR ? "ERR " : "", events & POLLHUP ? "HUP " : "",
             events & POLLNVAL ? "NVAL " : "");
    return text;
}

static inline void show_poll(const char *what, int fd, short events)
{
    struct pollfd p = {fd, events, 0};
    int n = poll(&p, 1, 0);
    printf("poll %s: %d %s\n", what, n, bits(p.revents));
    fflush(stdout);
}

static inline long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static inline void nap_ms(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}
