/* A page loses the right to be executed, and no other, while other threads execute it; then it has it again. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define THREADS 2
#define ROUNDS 10

static unsigned char *page;
static atomic_int faults, is_refused, is_over, codes, round;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    unsigned char *at = info->si_addr; /* the second instruction, if it was interrupted before that */
    if (at < page || at > page + 5 || !is_refused)
        _exit(3);
    int mine = round;
    codes |= info->si_code;
    faults++;
    while (round == mine) /* then it is tried again */
        sched_yield();
}

static void *execute(void *unused)
{
    int (*code)(void) = (int (*)(void))page;
    while (!is_over)
        if (code() != 42)
            _exit(4);
    return unused;
}

int main(void)
{
    static const unsigned char text[] = {0xb8, 42, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    pthread_t threads[THREADS];
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, text, sizeof text);
    sigaction(SIGSEGV, &action, NULL);
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, execute, NULL);
    while (round < ROUNDS) {
        faults = 0;
        is_refused = 1;
        mprotect(page, 4096, PROT_READ);
        while (faults < THREADS) /* every one of them meets it */
            sched_yield();
        if (page[1] != 42)
            return 5;
        mprotect(page, 4096, PROT_READ | PROT_EXEC);
        is_refused = 0;
        round++;
    }
    is_over = 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("%d rounds, code %d\n", ROUNDS, codes);
    return 0;
}
