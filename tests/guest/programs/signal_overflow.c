/* A stack overflow is handled on the alternate stack; without one it kills. */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile int count;

static void on(int signo)
{
    count++;
    siglongjmp(back, 1);
}

static int deeper(int n)
{
    volatile char buffer[4096];
    buffer[0] = n;
    return deeper(n + 1) + buffer[0];
}

int main(void)
{
    struct rlimit limit = {1 << 20, 1 << 20}, none = {0, 0};
    setrlimit(RLIMIT_STACK, &limit);
    setrlimit(RLIMIT_CORE, &none);
    int status;
    pid_t child = fork();
    if (!child) {
        signal(SIGSEGV, on);
        if (!sigsetjmp(back, 1))
            deeper(0);
        _exit(1);
    }
    waitpid(child, &status, 0);
    printf("without: killed by %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
    stack_t ss = {.ss_sp = malloc(65536), .ss_size = 65536};
    sigaltstack(&ss, NULL);
    struct sigaction act = {.sa_handler = on, .sa_flags = SA_ONSTACK};
    sigaction(SIGSEGV, &act, NULL);
    for (int i = 0; i < 3; i++)
        if (!sigsetjmp(back, 1))
            deeper(0);
    printf("with: handled %d\n", count);
    return 0;
}
