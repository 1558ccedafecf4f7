/* A fault whose signal is blocked or ignored kills; so does a handler whose stack is bad. */
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void on(int signo)
{
    _exit(9);
}

static void run(const char *name, int how)
{
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGSEGV);
        sigaddset(&set, SIGILL);
        signal(SIGSEGV, on);
        signal(SIGILL, on);
        if (how == 1)
            sigprocmask(SIG_BLOCK, &set, NULL);
        if (how == 2)
            signal(SIGSEGV, SIG_IGN);
        if (how == 3)
            __asm__ volatile("mov $8, %rsp\n ud2");
        if (how == 4) {
            sigprocmask(SIG_BLOCK, &set, NULL);
            raise(SIGSEGV);
            sigprocmask(SIG_UNBLOCK, &set, NULL);
        }
        *(volatile int *)0 = 1;
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        printf("%s: killed by %d\n", name, WTERMSIG(status));
    else
        printf("%s: exited %d\n", name, WEXITSTATUS(status));
}

int main(void)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    run("caught", 0);
    run("blocked", 1);
    run("ignored", 2);
    run("bad stack", 3);
    run("raised while blocked", 4);
    return 0;
}
