/* CPU time: clocks, ITIMER_VIRTUAL and ITIMER_PROF, a POSIX timer on it, RLIMIT_CPU. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int hits[65];
static volatile unsigned long sink;

static void on(int signo)
{
    hits[signo]++;
}

static long long now(clockid_t c)
{
    struct timespec t;
    if (clock_gettime(c, &t))
        return -1;
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void burn(long long cpu_ns)
{
    long long end = now(CLOCK_PROCESS_CPUTIME_ID) + cpu_ns;
    while (now(CLOCK_PROCESS_CPUTIME_ID) < end)
        for (int i = 0; i < 100000; i++)
            sink += i;
}

int main(void)
{
    int status;
    long long a = now(CLOCK_PROCESS_CPUTIME_ID);
    usleep(50000);
    long long b = now(CLOCK_PROCESS_CPUTIME_ID);
    printf("sleeping costs no CPU time %d\n", b - a < 40000000);
    burn(50000000);
    printf("burning does %d thread's too %d\n", now(CLOCK_PROCESS_CPUTIME_ID) - b >= 50000000, now(CLOCK_THREAD_CPUTIME_ID) >= 40000000);
    clockid_t clock;
    printf("own clock %d", clock_getcpuclockid(0, &clock));
    printf(" reads %d\n", now(clock) >= 50000000);
    printf("thread clock %d", pthread_getcpuclockid(pthread_self(), &clock));
    printf(" reads %d\n", now(clock) >= 40000000);
    printf("nobody's clock %d\n", clock_getcpuclockid(0x3fffff, &clock));
    struct sigaction act = {.sa_handler = on, .sa_flags = SA_RESTART};
    sigaction(SIGPROF, &act, NULL);
    sigaction(SIGVTALRM, &act, NULL);
    sigaction(SIGUSR1, &act, NULL);
    struct itimerval t = {{0, 20000}, {0, 20000}}, off = {{0, 0}, {0, 0}}, now_t;
    setitimer(ITIMER_PROF, &t, NULL);
    for (int i = 0; i < 500 && hits[SIGPROF] < 3; i++)
        burn(10000000);
    setitimer(ITIMER_PROF, &off, NULL);
    printf("SIGPROF %d\n", hits[SIGPROF] >= 3);
    setitimer(ITIMER_VIRTUAL, &t, NULL);
    for (int i = 0; i < 500 && hits[SIGVTALRM] < 3; i++)
        burn(10000000);
    getitimer(ITIMER_VIRTUAL, &now_t);
    printf("SIGVTALRM %d interval %ld\n", hits[SIGVTALRM] >= 3, (long)now_t.it_interval.tv_usec);
    setitimer(ITIMER_VIRTUAL, &off, NULL);
    int before = hits[SIGPROF] + hits[SIGVTALRM];
    burn(60000000);
    printf("stopped %d\n", hits[SIGPROF] + hits[SIGVTALRM] == before);
    t.it_value.tv_sec = 100;
    setitimer(ITIMER_PROF, &t, NULL);
    usleep(100000);
    getitimer(ITIMER_PROF, &now_t);
    printf("does not run in sleep %d\n", now_t.it_value.tv_sec >= 99);
    setitimer(ITIMER_PROF, &off, NULL);
    timer_t timer;
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    printf("timer_create %d\n", timer_create(CLOCK_PROCESS_CPUTIME_ID, &ev, &timer));
    struct itimerspec its = {{0, 0}, {0, 30000000}};
    timer_settime(timer, 0, &its, NULL);
    for (int i = 0; i < 500 && !hits[SIGUSR1]; i++)
        burn(10000000);
    printf("fired %d\n", hits[SIGUSR1]);
    timer_delete(timer);
    pid_t child = fork();
    if (!child) {
        struct rlimit limit = {1, 2}, none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        setrlimit(RLIMIT_CPU, &limit);
        for (;;)
            sink++;
    }
    waitpid(child, &status, 0);
    printf("soft limit: killed by %d\n", WTERMSIG(status));
    child = fork();
    if (!child) {
        struct rlimit limit = {1, 2};
        signal(SIGXCPU, SIG_IGN);
        setrlimit(RLIMIT_CPU, &limit);
        for (;;)
            sink++;
    }
    waitpid(child, &status, 0);
    printf("hard limit: killed by %d\n", WTERMSIG(status));
    return 0;
}
