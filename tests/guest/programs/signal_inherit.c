/* The effect of fork and execve on handlers, masks, pending signals and ignored signals. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void on(int signo) {}

static void show(const char *when)
{
    struct sigaction act;
    sigset_t mask, pending;
    stack_t ss;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    sigpending(&pending);
    sigaction(SIGUSR1, NULL, &act);
    printf("%s: usr1 %s", when, act.sa_handler == SIG_DFL ? "default" : act.sa_handler == SIG_IGN ? "ignored" : "caught");
    sigaction(SIGUSR2, NULL, &act);
    printf(" usr2 %s", act.sa_handler == SIG_DFL ? "default" : act.sa_handler == SIG_IGN ? "ignored" : "caught");
    sigaction(SIGCHLD, NULL, &act);
    printf(" chld %s", act.sa_handler == SIG_DFL ? "default" : act.sa_handler == SIG_IGN ? "ignored" : "caught");
    sigaltstack(NULL, &ss);
    printf(" blocked %d%d pending %d%d altstack %d\n", sigismember(&mask, SIGTERM), sigismember(&mask, SIGHUP),
           sigismember(&pending, SIGTERM), sigismember(&pending, SIGHUP), ss.ss_flags != SS_DISABLE);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        show("after execve");
        return 0;
    }
    static char stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&ss, NULL);
    sigset_t set;
    signal(SIGUSR1, on);
    signal(SIGUSR2, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_SETMASK, &set, NULL);
    raise(SIGTERM);
    show("parent");
    pid_t child = fork();
    if (!child) {
        show("after fork");
        kill(getpid(), SIGTERM);
        show("own signal");
        execl("/proc/self/exe", argv[0], "again", NULL);
        _exit(1);
    }
    int status;
    waitpid(child, &status, 0);
    printf("status %d\n", status);
    show("parent again");
    return 0;
}
