/* SS_AUTODISARM: the alternate stack is off while a handler runs on it, and back afterwards. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

static char *stack;
static size_t size = 65536;
static volatile int on_stack, disabled, reset;

static void on(int signo)
{
    int local;
    stack_t ss;
    on_stack = (char *)&local >= stack && (char *)&local < stack + size;
    sigaltstack(NULL, &ss);
    disabled = ss.ss_flags == SS_DISABLE;
    stack_t other = {.ss_sp = stack, .ss_size = size / 2};
    reset = sigaltstack(&other, NULL);
}

int main(void)
{
    stack = malloc(size);
    stack_t ss = {.ss_sp = stack, .ss_size = size, .ss_flags = SS_AUTODISARM}, now;
    printf("set %d\n", sigaltstack(&ss, NULL));
    struct sigaction act = {.sa_handler = on, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &act, NULL);
    for (int i = 0; i < 2; i++) {
        raise(SIGUSR1);
        sigaltstack(NULL, &now);
        printf("on stack %d disabled %d reset %d; after: size same %d flags %x\n", on_stack, disabled, reset,
               now.ss_size == size, now.ss_flags);
    }
    return 0;
}
