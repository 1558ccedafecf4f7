/* sigtimedwait, sigwaitinfo, sigwait: values, time limits, interruption. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static void on(int signo) {}

int main(void)
{
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct timespec zero = {0, 0}, some = {0, 20000000}, bad = {0, 1000000000};
    errno = 0;
    printf("nothing %d", sigtimedwait(&set, &info, &zero));
    printf(" errno %d\n", errno);
    printf("time limit %d", sigtimedwait(&set, &info, &some));
    printf(" errno %d\n", errno);
    printf("bad time %d", sigtimedwait(&set, &info, &bad));
    printf(" errno %d\n", errno);
    union sigval v = {.sival_int = 5};
    sigqueue(getpid(), SIGRTMIN + 1, v);
    kill(getpid(), SIGUSR1);
    memset(&info, 0, sizeof info);
    int s = sigtimedwait(&set, &info, &zero);
    printf("first %d code %d pid %d\n", s == SIGUSR1, info.si_code, info.si_pid == getpid());
    s = sigwaitinfo(&set, &info);
    printf("second %d code %d value %d\n", s == SIGRTMIN + 1, info.si_code, info.si_value.sival_int);
    struct sigaction act = {.sa_handler = on, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &act, NULL);
    struct itimerval t = {{0, 0}, {0, 20000}};
    setitimer(ITIMER_REAL, &t, NULL);
    struct timespec limit = {10, 0};
    s = sigtimedwait(&set, &info, &limit);
    printf("interrupted %d errno %d\n", s, errno);
    /* A signal of the set wins over its handler even if it is not blocked when it arrives. */
    sigset_t alarm_set;
    sigemptyset(&alarm_set);
    sigaddset(&alarm_set, SIGALRM);
    sigprocmask(SIG_BLOCK, &alarm_set, NULL);
    setitimer(ITIMER_REAL, &t, NULL);
    s = sigwaitinfo(&alarm_set, &info);
    printf("timer %d code %d\n", s == SIGALRM, info.si_code);
    /* SIGKILL in the set is ignored. */
    sigaddset(&set, SIGKILL);
    printf("kill in set %d", sigtimedwait(&set, &info, &zero));
    printf(" errno %d\n", errno);
    int which = 0;
    kill(getpid(), SIGUSR1);
    printf("sigwait %d %d\n", sigwait(&set, &which), which == SIGUSR1);
    return 0;
}
