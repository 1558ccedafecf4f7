/* Blocking, pending sets, delivery on unblocking; signals that cannot be blocked. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile int got[65], order[16], n;

static void on(int signo)
{
    got[signo]++;
    if (n < 16)
        order[n++] = signo;
}

int main(void)
{
    struct sigaction act = {.sa_handler = on};
    sigset_t all, old, pending, set;
    sigfillset(&act.sa_mask);
    sigaction(SIGUSR1, &act, NULL);
    sigaction(SIGUSR2, &act, NULL);
    sigaction(SIGHUP, &act, NULL);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    sigprocmask(SIG_BLOCK, NULL, &set);
    printf("kill blocked %d stop blocked %d term blocked %d\n", sigismember(&set, SIGKILL),
           sigismember(&set, SIGSTOP), sigismember(&set, SIGTERM));
    raise(SIGUSR2);
    raise(SIGUSR1);
    raise(SIGUSR1);
    kill(getpid(), SIGHUP);
    kill(getpid(), SIGHUP);
    sigpending(&pending);
    printf("pending usr1 %d usr2 %d hup %d term %d\n", sigismember(&pending, SIGUSR1),
           sigismember(&pending, SIGUSR2), sigismember(&pending, SIGHUP), sigismember(&pending, SIGTERM));
    printf("delivered %d\n", n);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    printf("after unblocking usr1: usr1 %d usr2 %d hup %d\n", got[SIGUSR1], got[SIGUSR2], got[SIGHUP]);
    sigprocmask(SIG_SETMASK, &old, NULL);
    printf("after all: usr1 %d usr2 %d hup %d\n", got[SIGUSR1], got[SIGUSR2], got[SIGHUP]);
    for (int i = 0; i < n; i++)
        printf("%d ", order[i]);
    printf("\n");
    sigpending(&pending);
    printf("pending usr2 %d\n", sigismember(&pending, SIGUSR2));
    /* An ignored signal that is blocked stays pending until SIG_IGN is set. */
    sigprocmask(SIG_SETMASK, &all, NULL);
    kill(getpid(), SIGWINCH);
    kill(getpid(), SIGUSR1);
    sigpending(&pending);
    printf("winch pending %d usr1 %d\n", sigismember(&pending, SIGWINCH), sigismember(&pending, SIGUSR1));
    signal(SIGUSR1, SIG_IGN);
    signal(SIGWINCH, SIG_DFL);
    sigpending(&pending);
    printf("winch pending %d usr1 %d\n", sigismember(&pending, SIGWINCH), sigismember(&pending, SIGUSR1));
    return 0;
}
