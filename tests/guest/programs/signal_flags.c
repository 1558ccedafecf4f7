/* SA_RESETHAND, SA_NODEFER, sa_mask, and nesting. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile int depth, deepest, trace[16], n;

static void on(int signo)
{
    trace[n++] = signo;
    depth++;
    if (depth > deepest)
        deepest = depth;
    if (n < 4)
        raise(SIGUSR1);
    depth--;
}

static void on2(int signo)
{
    trace[n++] = signo;
    if (signo == SIGUSR1) {
        raise(SIGUSR2);
        trace[n++] = -signo;
    }
}

static void report(const char *name)
{
    printf("%s: deepest %d:", name, deepest);
    for (int i = 0; i < n; i++)
        printf(" %d", trace[i]);
    printf("\n");
    n = deepest = depth = 0;
}

int main(void)
{
    struct sigaction act = {.sa_handler = on}, now;
    sigaction(SIGUSR1, &act, NULL);
    raise(SIGUSR1);
    report("deferred");
    act.sa_flags = SA_NODEFER;
    sigaction(SIGUSR1, &act, NULL);
    raise(SIGUSR1);
    report("SA_NODEFER");
    act.sa_handler = on2;
    act.sa_flags = 0;
    sigaction(SIGUSR1, &act, NULL);
    sigaction(SIGUSR2, &act, NULL);
    raise(SIGUSR1);
    report("other signal nests");
    sigaddset(&act.sa_mask, SIGUSR2);
    sigaction(SIGUSR1, &act, NULL);
    raise(SIGUSR1);
    report("other signal masked");
    act.sa_flags = SA_RESETHAND;
    sigemptyset(&act.sa_mask);
    sigaction(SIGUSR2, &act, NULL);
    raise(SIGUSR2);
    sigaction(SIGUSR2, NULL, &now);
    report("SA_RESETHAND");
    printf("default again %d\n", now.sa_handler == SIG_DFL);
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    printf("mask empty %d\n", sigisemptyset(&mask));
    return 0;
}
