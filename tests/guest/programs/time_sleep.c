/* nanosleep and clock_nanosleep: durations, absolute times, the time left, errors. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static void on(int signo) {}

static long long now(clockid_t c)
{
    struct timespec t;
    clock_gettime(c, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void alarm_ms(int ms)
{
    struct itimerval t = {{0, 0}, {0, ms * 1000}};
    setitimer(ITIMER_REAL, &t, NULL);
}

#define SHOW(name, call)                                                                                     \
    do {                                                                                                      \
        errno = 0;                                                                                            \
        long r_ = (call);                                                                                     \
        printf("%s: %ld %d\n", name, r_, errno);                                                              \
    } while (0)

int main(void)
{
    struct timespec t = {0, 20000000}, left = {-7, -7};
    long long before = now(CLOCK_MONOTONIC);
    SHOW("nanosleep", nanosleep(&t, &left));
    long long took = now(CLOCK_MONOTONIC) - before;
    printf("long enough %d not too long %d left untouched %d\n", took >= 20000000, took < 60000000000LL, left.tv_sec == -7);
    t.tv_nsec = 0;
    SHOW("zero", nanosleep(&t, NULL));
    t.tv_nsec = 1000000000;
    SHOW("bad", nanosleep(&t, NULL));
    t.tv_sec = -1, t.tv_nsec = 0;
    SHOW("negative", nanosleep(&t, NULL));
    SHOW("fault", syscall(SYS_nanosleep, 8, NULL));
    struct sigaction act = {.sa_handler = on};
    sigaction(SIGALRM, &act, NULL);
    t.tv_sec = 5;
    alarm_ms(30);
    SHOW("interrupted", nanosleep(&t, &left));
    printf("left %d\n", left.tv_sec == 4);
    left.tv_sec = -7;
    alarm_ms(30);
    SHOW("interrupted clock_nanosleep", syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, &left));
    printf("left %d\n", left.tv_sec == 4);
    clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME, CLOCK_TAI};
    for (int i = 0; i < 4; i++) {
        long long at = now(clocks[i]) + 20000000;
        t.tv_sec = at / 1000000000;
        t.tv_nsec = at % 1000000000;
        SHOW("absolute", syscall(SYS_clock_nanosleep, clocks[i], TIMER_ABSTIME, &t, NULL));
        printf("reached %d\n", now(clocks[i]) >= at - 1000000);
    }
    t.tv_sec = 1;
    SHOW("absolute past", syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL));
    long long far = now(CLOCK_MONOTONIC) + 5000000000LL;
    t.tv_sec = far / 1000000000;
    left.tv_sec = -7;
    alarm_ms(30);
    SHOW("absolute interrupted", syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, &left));
    printf("left untouched %d\n", left.tv_sec == -7);
    t.tv_sec = 0;
    SHOW("thread clock", syscall(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &t, NULL));
    SHOW("raw clock", syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC_RAW, 0, &t, NULL));
    SHOW("coarse clock", syscall(SYS_clock_nanosleep, CLOCK_REALTIME_COARSE, 0, &t, NULL));
    SHOW("no clock", syscall(SYS_clock_nanosleep, 77, 0, &t, NULL));
    t.tv_nsec = -1;
    SHOW("bad time", syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, NULL));
    return 0;
}
