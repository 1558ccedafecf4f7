/* sigaltstack: where handlers run, and when which stack may be set. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *stack;
static size_t size = 65536;
static volatile int on_stack, flags_in, set_errno, nested_on_stack;

static int is_on(void *p)
{
    return (char *)p >= stack && (char *)p < stack + size;
}

static void on_usr2(int signo)
{
    int local;
    nested_on_stack = is_on(&local);
}

static void on_usr1(int signo)
{
    int local;
    stack_t ss, bad = {.ss_sp = stack, .ss_size = size};
    on_stack = is_on(&local);
    sigaltstack(NULL, &ss);
    flags_in = ss.ss_flags;
    set_errno = sigaltstack(&bad, NULL) ? errno : 0;
    raise(SIGUSR2);
}

int main(void)
{
    stack = malloc(size);
    stack_t ss = {.ss_sp = stack, .ss_size = size}, old;
    printf("set %d", sigaltstack(&ss, &old));
    printf(" old disabled %d\n", old.ss_flags == SS_DISABLE);
    struct sigaction act = {.sa_handler = on_usr1, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &act, NULL);
    act.sa_handler = on_usr2;
    sigaction(SIGUSR2, &act, NULL);
    raise(SIGUSR1);
    printf("on stack %d flags %d set errno %d nested %d\n", on_stack, flags_in, set_errno, nested_on_stack);
    sigaltstack(NULL, &old);
    printf("after: same %d flags %d\n", old.ss_sp == stack && old.ss_size == size, old.ss_flags);
    act.sa_handler = on_usr1;
    act.sa_flags = 0;
    sigaction(SIGUSR1, &act, NULL);
    raise(SIGUSR1);
    printf("without SA_ONSTACK: on stack %d flags %d set errno %d nested %d\n", on_stack, flags_in, set_errno,
           nested_on_stack);
    ss.ss_size = 1024;
    printf("small %d", sigaltstack(&ss, NULL));
    printf(" errno %d\n", errno);
    ss.ss_size = size;
    ss.ss_flags = 8;
    printf("flags %d", sigaltstack(&ss, NULL));
    printf(" errno %d\n", errno);
    ss.ss_flags = SS_ONSTACK;
    printf("SS_ONSTACK %d\n", sigaltstack(&ss, NULL));
    ss.ss_flags = SS_DISABLE;
    printf("disable %d\n", sigaltstack(&ss, NULL));
    sigaltstack(NULL, &old);
    printf("disabled: %d size %zu null %d\n", old.ss_flags == SS_DISABLE, old.ss_size, old.ss_sp == NULL);
    act.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR1, &act, NULL);
    raise(SIGUSR1);
    printf("disabled: on stack %d\n", on_stack);
    return 0;
}
