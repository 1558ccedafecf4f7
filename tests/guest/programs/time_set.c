/* Setting clocks: errors of the arguments come first; reading the state of the clock works. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define SHOW(name, call)                                                                                     \
    do {                                                                                                      \
        errno = 0;                                                                                            \
        long r_ = (call);                                                                                     \
        printf("%s: %ld %d\n", name, r_, errno);                                                              \
    } while (0)

int main(void)
{
    struct timespec bad = {0, 1000000000}, zero = {0, 0};
    struct timeval bad_tv = {0, 1000001};
    struct timex tx;
    SHOW("bad time", syscall(SYS_clock_settime, CLOCK_REALTIME, &bad));
    SHOW("fault", syscall(SYS_clock_settime, CLOCK_REALTIME, 8));
    SHOW("monotonic", syscall(SYS_clock_settime, CLOCK_MONOTONIC, &zero));
    SHOW("boottime", syscall(SYS_clock_settime, CLOCK_BOOTTIME, &zero));
    SHOW("no clock", syscall(SYS_clock_settime, 99, &zero));
    SHOW("settimeofday bad", syscall(SYS_settimeofday, &bad_tv, NULL));
    SHOW("settimeofday fault", syscall(SYS_settimeofday, 8, NULL));
    memset(&tx, 0, sizeof tx);
    errno = 0;
    int r = adjtimex(&tx);
    printf("adjtimex %d now %d tick %d\n", r >= 0 && r <= 5, tx.time.tv_sec > 1600000000, tx.tick >= 9000 && tx.tick <= 11000);
    memset(&tx, 0, sizeof tx);
    r = syscall(SYS_clock_adjtime, CLOCK_REALTIME, &tx);
    printf("clock_adjtime %d now %d\n", r >= 0 && r <= 5, tx.time.tv_sec > 1600000000);
    SHOW("clock_adjtime monotonic", syscall(SYS_clock_adjtime, CLOCK_MONOTONIC, &tx));
    SHOW("adjtimex fault", syscall(SYS_adjtimex, 8));
    return 0;
}
