/* clock_gettime, clock_getres, gettimeofday, time, times by their raw numbers: relations, resolutions, errors. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/times.h>
#include <time.h>
#include <unistd.h>

static long long now(int clock)
{
    struct timespec t = {-1, -1};
    if (syscall(SYS_clock_gettime, clock, &t))
        return -1;
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(void)
{
    struct timespec t;
    for (int c = 0; c < 12; c++) {
        if (c == 10)
            continue;
        long long a = now(c), b = now(c);
        int r = syscall(SYS_clock_getres, c, &t);
        printf("clock %d: advances %d res %d", c, a > 0 && b >= a, r);
        if (c != 5 && c != 6 && c != 8 && c != 9)
            printf(" %ld %ld", (long)t.tv_sec, t.tv_nsec);
        printf("\n");
    }
    int bad[] = {10, 12, 16, 100, -3, -1};
    for (int i = 0; i < 6; i++) {
        errno = 0;
        long r = syscall(SYS_clock_gettime, bad[i], &t);
        printf("clock %d: %ld %d", bad[i], r, errno);
        errno = 0;
        r = syscall(SYS_clock_getres, bad[i], &t);
        printf(" res %ld %d\n", r, errno);
    }
    errno = 0;
    printf("fault %ld", syscall(SYS_clock_gettime, 0, 8));
    printf(" %d\n", errno);
    printf("getres without result %ld\n", syscall(SYS_clock_getres, 1, NULL));
    long long mono = now(CLOCK_MONOTONIC), boot = now(CLOCK_BOOTTIME), raw = now(CLOCK_MONOTONIC_RAW);
    printf("boottime is not before monotonic %d\n", boot >= mono);
    printf("raw is near %d\n", llabs(raw - mono) < 60000000000LL);
    clock_gettime(CLOCK_MONOTONIC, &t);
    long long libc = t.tv_sec * 1000000000LL + t.tv_nsec;
    printf("the C library's clock is the same %d\n", libc >= mono && libc - mono < 60000000000LL);
    long long real = now(CLOCK_REALTIME);
    struct timeval tv;
    struct timezone tz = {7, 7};
    printf("gettimeofday %ld", syscall(SYS_gettimeofday, &tv, &tz));
    printf(" near %d zone %d %d\n", llabs(tv.tv_sec * 1000000000LL + tv.tv_usec * 1000LL - real) < 60000000000LL, tz.tz_minuteswest,
           tz.tz_dsttime);
    time_t seconds = 0, r = syscall(SYS_time, &seconds);
    printf("time %d %d\n", r == seconds, llabs(seconds - real / 1000000000) <= 2);
    struct tms tms;
    clock_t t1 = times(&tms), t2 = times(NULL);
    printf("times %d %d\n", t1 != -1 && t2 >= t1, tms.tms_utime >= 0 && tms.tms_cutime == 0);
    return 0;
}
