/* One-shot and interval timers, absolute times, gettime, results of reads, errors. */
#include "event_show.h"
#include <sys/timerfd.h>

static struct itimerspec spec(long value_ms, long interval_ms)
{
    return (struct itimerspec){{interval_ms / 1000, interval_ms % 1000 * 1000000}, {value_ms / 1000, value_ms % 1000 * 1000000}};
}

int main(void)
{
    uint64_t n;
    struct itimerspec s, old;
    SHOW(timerfd_create(CLOCK_PROCESS_CPUTIME_ID, 0));
    SHOW(timerfd_create(CLOCK_MONOTONIC, 1));
    int clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME};
    for (int i = 0; i < 3; i++) {
        int t = timerfd_create(clocks[i], TFD_NONBLOCK);
        SHOW(read(t, &n, 8));
        show_poll("disarmed", t, POLLIN | POLLOUT);
        s = spec(30, 0);
        long long start = now_ms();
        SHOW(timerfd_settime(t, 0, &s, NULL));
        SHOW(timerfd_gettime(t, &old));
        printf("%ld %d %ld\n", old.it_value.tv_sec, old.it_value.tv_nsec > 0, old.it_interval.tv_nsec);
        struct pollfd p = {t, POLLIN};
        SHOW(poll(&p, 1, 5000));
        printf("in time %d\n", now_ms() - start >= 28);
        SHOW(read(t, &n, 8));
        printf("%llu\n", (unsigned long long)n);
        SHOW(read(t, &n, 8));
        timerfd_gettime(t, &old);
        printf("%ld %ld\n", old.it_value.tv_sec, old.it_value.tv_nsec);
        struct timespec now;
        clock_gettime(clocks[i], &now);
        s = (struct itimerspec){{0, 0}, now};
        SHOW(timerfd_settime(t, TFD_TIMER_ABSTIME, &s, NULL));
        SHOW(poll(&p, 1, 5000));
        SHOW(read(t, &n, 8));
        now.tv_sec += 100;
        s.it_value = now;
        SHOW(timerfd_settime(t, TFD_TIMER_ABSTIME, &s, NULL));
        timerfd_gettime(t, &old);
        printf("%ld\n", old.it_value.tv_sec);
        s = spec(0, 50);
        SHOW(timerfd_settime(t, 0, &s, &old));
        printf("%ld\n", old.it_value.tv_sec);
        timerfd_gettime(t, &old);
        printf("%ld %ld\n", old.it_value.tv_nsec, old.it_interval.tv_nsec);
        close(t);
    }
    int t = timerfd_create(CLOCK_MONOTONIC, 0);
    s = spec(10, 10);
    timerfd_settime(t, 0, &s, NULL);
    nap_ms(55);
    SHOW(read(t, &n, 8));
    printf("about five %d\n", n >= 5 && n < 30);
    SHOW(read(t, &n, 8));
    printf("next %d\n", n >= 1 && n < 10);
    SHOW(read(t, &n, 4));
    SHOW(write(t, &n, 8));
    s.it_value.tv_nsec = 1000000000;
    SHOW(timerfd_settime(t, 0, &s, NULL));
    s.it_value.tv_nsec = -1;
    SHOW(timerfd_settime(t, 0, &s, NULL));
    s = spec(10, 0);
    SHOW(timerfd_settime(t, 4, &s, NULL));
    SHOW(timerfd_settime(0, 0, &s, NULL));
    SHOW(timerfd_settime(99, 0, &s, NULL));
    SHOW(timerfd_gettime(99, &s));
    /* Inherited by a child, still running there. */
    s = spec(30, 0);
    timerfd_settime(t, 0, &s, NULL);
    if (!fork()) {
        SHOW(read(t, &n, 8));
        _exit(0);
    }
    wait(NULL);
    int r = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    s = (struct itimerspec){{0, 0}, {now.tv_sec + 50, 0}};
    SHOW(timerfd_settime(r, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &s, NULL));
    return 0;
}
