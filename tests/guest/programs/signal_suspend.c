/* sigsuspend: the mask in it, before it and after it; two processes that take turns. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int turns, mask_in_handler;

static void on(int signo)
{
    sigset_t now;
    turns++;
    sigprocmask(SIG_SETMASK, NULL, &now);
    mask_in_handler = sigismember(&now, SIGUSR1) * 100 + sigismember(&now, SIGUSR2) * 10 + sigismember(&now, SIGHUP);
}

int main(void)
{
    struct sigaction act = {.sa_handler = on};
    sigset_t block, wait, now;
    sigemptyset(&act.sa_mask);
    sigaction(SIGUSR1, &act, NULL);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigaddset(&block, SIGHUP);
    sigprocmask(SIG_BLOCK, &block, NULL);
    sigemptyset(&wait);
    sigaddset(&wait, SIGUSR2);
    raise(SIGUSR1);
    int r = sigsuspend(&wait);
    sigprocmask(SIG_SETMASK, NULL, &now);
    printf("sigsuspend %d errno %d mask in handler %d after %d%d%d\n", r, errno, mask_in_handler,
           sigismember(&now, SIGUSR1), sigismember(&now, SIGUSR2), sigismember(&now, SIGHUP));
    turns = 0;
    pid_t parent = getpid(), child = fork();
    for (int i = 0; i < 300; i++) {
        if (child)
            kill(child, SIGUSR1);
        while (turns <= i)
            sigsuspend(&wait);
        if (!child)
            kill(parent, SIGUSR1);
    }
    if (!child)
        _exit(turns == 300 ? 0 : 1);
    int status;
    waitpid(child, &status, 0);
    printf("turns %d child %d\n", turns, status);
    return 0;
}
