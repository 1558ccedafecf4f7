/* timer_create and its kin: notification, siginfo, overruns, absolute times, errors, fork and execve. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* Longer than it takes to handle a signal on a slow machine: else no time is left for the program between two of them. */
#define PERIOD_NS 20000000

static volatile int count, code, value, overrun, is_main;
static pthread_t main_thread;

static void on(int signo, siginfo_t *info, void *context)
{
    count++;
    code = info->si_code;
    value = info->si_value.sival_int;
    overrun = info->si_overrun;
    is_main = pthread_equal(pthread_self(), main_thread);
}

static long long now(clockid_t c)
{
    struct timespec t;
    clock_gettime(c, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void wait_count(int n)
{
    for (int i = 0; i < 3000 && count < n; i++)
        usleep(1000);
}

static volatile int thread_ticks;

static void in_thread(union sigval v)
{
    thread_ticks += v.sival_int;
}

static volatile int tid, stop;

static void *other(void *arg)
{
    tid = syscall(SYS_gettid);
    while (!stop)
        usleep(1000);
    return NULL;
}

#define SHOW(name, call)                                                                                     \
    do {                                                                                                      \
        errno = 0;                                                                                            \
        long r_ = (call);                                                                                     \
        printf("%s: %ld %d\n", name, r_, errno);                                                              \
    } while (0)

int main(int argc, char **argv)
{
    timer_t t, t2;
    struct itimerspec its = {{0, 0}, {0, 10000000}}, zero, got;
    memset(&zero, 0, sizeof zero);
    if (argc > 1) {
        SHOW("after execve", syscall(SYS_timer_gettime, 0, &got));
        return 0;
    }
    main_thread = pthread_self();
    struct sigaction act = {.sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGUSR1, &act, NULL);
    sigaction(SIGALRM, &act, NULL);
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 321};
    SHOW("create", timer_create(CLOCK_MONOTONIC, &ev, &t));
    SHOW("not armed", timer_gettime(t, &got));
    printf("value %ld\n", got.it_value.tv_nsec + got.it_value.tv_sec);
    SHOW("settime", timer_settime(t, 0, &its, &got));
    wait_count(1);
    printf("count %d code %d value %d overrun %d\n", count, code, value, overrun);
    usleep(30000);
    printf("only once %d\n", count);
    its.it_interval.tv_nsec = PERIOD_NS;
    its.it_value.tv_nsec = PERIOD_NS;
    timer_settime(t, 0, &its, NULL);
    wait_count(5);
    timer_gettime(t, &got);
    printf("periodic %d interval %ld in it %d\n", count >= 5, got.it_interval.tv_nsec, got.it_value.tv_nsec <= PERIOD_NS);
    SHOW("stop", timer_settime(t, 0, &zero, NULL));
    /* Overruns. */
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &old);
    siginfo_t info;
    struct timespec none = {0, 0};
    sigtimedwait(&set, &info, &none);
    timer_settime(t, 0, &its, NULL);
    usleep(10 * PERIOD_NS / 1000);
    int s = sigtimedwait(&set, &info, &none);
    printf("overruns %d %d %d\n", s == SIGUSR1, info.si_overrun >= 5, timer_getoverrun(t) == info.si_overrun);
    timer_settime(t, 0, &zero, NULL);
    sigtimedwait(&set, &info, &none);
    sigprocmask(SIG_SETMASK, &old, NULL);
    /* Absolute. */
    long long at = now(CLOCK_REALTIME) + 20000000;
    count = 0;
    SHOW("create realtime", timer_create(CLOCK_REALTIME, NULL, &t2));
    its.it_interval.tv_nsec = 0;
    its.it_value.tv_sec = at / 1000000000, its.it_value.tv_nsec = at % 1000000000;
    SHOW("absolute", timer_settime(t2, TIMER_ABSTIME, &its, NULL));
    wait_count(1);
    printf("default is SIGALRM with the id: %d reached %d\n", count == 1 && code == SI_TIMER, now(CLOCK_REALTIME) >= at - 1000000);
    its.it_value.tv_sec = 1, its.it_value.tv_nsec = 0;
    SHOW("absolute past", timer_settime(t2, TIMER_ABSTIME, &its, NULL));
    wait_count(2);
    printf("count %d\n", count);
    /* No notification. */
    ev.sigev_notify = SIGEV_NONE;
    timer_t quiet;
    SHOW("create none", timer_create(CLOCK_MONOTONIC, &ev, &quiet));
    its.it_value.tv_sec = 0, its.it_value.tv_nsec = 5000000;
    timer_settime(quiet, 0, &its, NULL);
    usleep(20000);
    timer_gettime(quiet, &got);
    printf("expired quietly %ld count %d\n", got.it_value.tv_nsec + got.it_value.tv_sec, count);
    /* To a thread. */
    pthread_t th;
    pthread_create(&th, NULL, other, NULL);
    while (!tid)
        usleep(1000);
    struct sigevent directed = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 5};
    directed.sigev_notify_thread_id = tid;
    timer_t td;
    SHOW("create for a thread", timer_create(CLOCK_MONOTONIC, &directed, &td));
    count = 0;
    is_main = -1;
    timer_settime(td, 0, &its, NULL);
    wait_count(1);
    printf("count %d main %d value %d\n", count, is_main, value);
    stop = 1;
    pthread_join(th, NULL);
    directed.sigev_notify_thread_id = 1;
    SHOW("foreign thread", timer_create(CLOCK_MONOTONIC, &directed, &td));
    struct sigevent threaded = {.sigev_notify = SIGEV_THREAD, .sigev_value.sival_int = 1};
    threaded.sigev_notify_function = in_thread;
    timer_t tt;
    SHOW("create SIGEV_THREAD", timer_create(CLOCK_MONOTONIC, &threaded, &tt));
    its.it_interval.tv_nsec = PERIOD_NS;
    timer_settime(tt, 0, &its, NULL);
    for (int i = 0; i < 3000 && thread_ticks < 3; i++)
        usleep(1000);
    timer_delete(tt);
    printf("thread ticks %d\n", thread_ticks >= 3);
    /* Errors. */
    ev.sigev_notify = 77;
    SHOW("bad notify", timer_create(CLOCK_MONOTONIC, &ev, &t2));
    ev.sigev_notify = SIGEV_SIGNAL;
    ev.sigev_signo = 65;
    SHOW("bad signal", timer_create(CLOCK_MONOTONIC, &ev, &t2));
    ev.sigev_signo = SIGUSR1;
    SHOW("bad clock", syscall(SYS_timer_create, 55, NULL, &tid));
    SHOW("raw clock", syscall(SYS_timer_create, CLOCK_MONOTONIC_RAW, NULL, &tid));
    SHOW("coarse clock", syscall(SYS_timer_create, CLOCK_MONOTONIC_COARSE, NULL, &tid));
    SHOW("no such timer", syscall(SYS_timer_gettime, 9999, &got));
    SHOW("delete no such timer", syscall(SYS_timer_delete, 9999));
    SHOW("overrun no such timer", syscall(SYS_timer_getoverrun, 9999));
    its.it_value.tv_nsec = 1000000000;
    SHOW("bad time", timer_settime(t, 0, &its, NULL));
    SHOW("delete", timer_delete(t));
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        SHOW("after fork", syscall(SYS_timer_gettime, 1, &got));
        timer_create(CLOCK_MONOTONIC, NULL, &t2);
        fflush(stdout);
        execl("/proc/self/exe", argv[0], "x", NULL);
    }
    int status;
    waitpid(child, &status, 0);
    printf("child %d\n", status);
    return 0;
}
