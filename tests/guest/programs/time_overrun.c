/* Expirations that no call took: si_overrun, timer_getoverrun(2), timerfd, and timers whose signal is ignored for a
 * while. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static void until(const struct timespec *from, long milliseconds) {
    struct timespec at = *from;
    at.tv_nsec += milliseconds * 1000000;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

int main(void) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    struct itimerspec spec = {{0, 1000000}, {0, 1000000}};
    struct sigaction action = {.sa_handler = SIG_IGN};
    struct timespec start;
    siginfo_t info;
    sigset_t set;
    timer_t timer;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    timer_settime(timer, 0, &spec, NULL);
    clock_gettime(CLOCK_MONOTONIC, &start);  // afterwards: it may take a while
    until(&start, 40);
    sigwaitinfo(&set, &info);
    printf("blocked: %d, the same %d\n", info.si_overrun >= 38, info.si_overrun == timer_getoverrun(timer));
    sigaction(SIGRTMIN, &action, NULL);
    action.sa_handler = SIG_DFL;
    sigaction(SIGRTMIN, &action, NULL);
    printf("ignored for a while: %d\n", sigwaitinfo(&set, &info) == SIGRTMIN);
    // The next expiration may be pending by now, which a kernel before 6.13 keeps for the timer's next setting.
    struct itimerspec none = {{0, 0}, {0, 0}};
    timer_settime(timer, 0, &none, NULL);
    while (sigtimedwait(&set, &info, &none.it_value) > 0) {
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
    spec.it_value = start;
    spec.it_value.tv_sec--;
    spec.it_interval.tv_nsec = 100000000;
    timer_settime(timer, TIMER_ABSTIME, &spec, NULL);
    sigwaitinfo(&set, &info);
    printf("late: %d\n", info.si_overrun >= 10);
    timer_settime(timer, 0, &none, NULL);
    while (sigtimedwait(&set, &info, &none.it_value) > 0) {
    }
    spec = (struct itimerspec){{0, 1}, {0, 1}};
    timer_settime(timer, 0, &spec, NULL);
    clock_gettime(CLOCK_MONOTONIC, &start);
    until(&start, 5);
    sigwaitinfo(&set, &info);
    printf("nanoseconds: %d\n", info.si_overrun > 1000000);
    timer_delete(timer);
    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    uint64_t count = 0;
    spec = (struct itimerspec){{0, 1000000}, {0, 1000000}};
    timerfd_settime(fd, 0, &spec, NULL);
    clock_gettime(CLOCK_MONOTONIC, &start);
    until(&start, 20);
    read(fd, &count, sizeof count);
    printf("timerfd: %d\n", count >= 19);
    printf("none: %ld\n", syscall(SYS_timer_getoverrun, 77));
    return 0;
}
