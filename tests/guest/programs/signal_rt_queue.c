/* Real-time signals queue with their values, lowest number first; ordinary ones merge. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile int n, numbers[64], values[64];

static void on(int signo, siginfo_t *info, void *context)
{
    if (n < 64) {
        numbers[n] = signo - SIGRTMIN;
        values[n++] = info->si_value.sival_int;
    }
}

int main(void)
{
    struct sigaction act = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};
    sigset_t all, old;
    sigfillset(&act.sa_mask);
    for (int i = 0; i < 3; i++)
        sigaction(SIGRTMIN + i, &act, NULL);
    sigaction(SIGUSR1, &act, NULL);
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    for (int i = 0; i < 4; i++)
        for (int s = 2; s >= 0; s--) {
            union sigval v = {.sival_int = 10 * s + i};
            if (sigqueue(getpid(), SIGRTMIN + s, v))
                printf("sigqueue failed\n");
        }
    for (int i = 0; i < 3; i++) {
        union sigval v = {.sival_int = 100 + i};
        sigqueue(getpid(), SIGUSR1, v);
    }
    sigset_t want;
    sigemptyset(&want);
    for (int s = 0; s < 3; s++)
        sigaddset(&want, SIGRTMIN + s);
    siginfo_t info;
    /* Half of them synchronously, the rest by handlers. */
    for (int i = 0; i < 6; i++) {
        int s = sigwaitinfo(&want, &info);
        printf("sigwaitinfo %d value %d code %d\n", s - SIGRTMIN, info.si_value.sival_int, info.si_code);
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    int usr1 = 0;
    for (int i = 0; i < n; i++)
        if (numbers[i] < 0)
            usr1++, printf("usr1 value %d\n", values[i]);
    printf("delivered %d usr1 %d\n", n, usr1);
    for (int s = 0; s < 3; s++)
        for (int i = 0; i < n; i++)
            if (numbers[i] == s)
                printf("handler %d value %d\n", numbers[i], values[i]);
    return 0;
}
