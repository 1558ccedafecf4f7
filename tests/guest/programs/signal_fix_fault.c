/* A handler that mends a fault and returns: the instruction runs again.  And one that steps over it. */
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>

static char *area;
static volatile int faults, trapno, is_write;

static void mend(int signo, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    faults++;
    trapno = uc->uc_mcontext.gregs[REG_TRAPNO];
    mprotect((void *)((unsigned long)info->si_addr & ~4095UL), 4096, PROT_READ | PROT_WRITE);
}

static void skip(int signo, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    faults++;
    uc->uc_mcontext.gregs[REG_RIP] += 2; /* ud2 */
    uc->uc_mcontext.gregs[REG_RAX] = 1234;
}

int main(void)
{
    struct sigaction act = {.sa_sigaction = mend, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &act, NULL);
    area = mmap(NULL, 16 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int sum = 0;
    for (int i = 0; i < 16; i++) {
        area[i * 4096 + i] = i;
        sum += area[i * 4096 + i];
    }
    printf("faults %d sum %d trap %d\n", faults, sum, trapno);
    act.sa_sigaction = skip;
    sigaction(SIGILL, &act, NULL);
    long value = 0;
    __asm__ volatile("ud2" : "=a"(value) : "a"(1));
    printf("faults %d value %ld\n", faults, value);
    return 0;
}
