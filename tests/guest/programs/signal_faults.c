/* Faults of the processor: signal, si_code and si_addr, left by siglongjmp. */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static sigjmp_buf back;
static siginfo_t seen;
static volatile int signo_seen;

static void on(int signo, siginfo_t *info, void *context)
{
    signo_seen = signo;
    seen = *info;
    siglongjmp(back, 1);
}

#define TRY(name, statement, address)                                                                         \
    do {                                                                                                      \
        signo_seen = 0;                                                                                       \
        if (!sigsetjmp(back, 1)) {                                                                            \
            statement;                                                                                        \
        }                                                                                                     \
        printf("%s: signal %d code %d address %d\n", name, signo_seen, signo_seen ? seen.si_code : 0,         \
               signo_seen ? (char *)seen.si_addr == (char *)(address) : -1);                                  \
    } while (0)

int main(void)
{
    struct sigaction act = {.sa_sigaction = on, .sa_flags = SA_SIGINFO};
    int all[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (int i = 0; i < 5; i++)
        sigaction(all[i], &act, NULL);
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *gone = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(gone, 4096);
    volatile int zero = 0, sink;
    volatile char *null = NULL;
    TRY("read null", sink = *null, NULL);
    TRY("write null", null[8] = 1, 8);
    TRY("read unmapped", sink = *(volatile char *)gone, gone);
    TRY("write read-only", *(volatile char *)(page + 12) = 1, page + 12);
    TRY("read none", sink = *(volatile char *)(none + 5), none + 5);
    TRY("non-canonical", sink = *(volatile char *)0x8000000000000000ULL, NULL);
    TRY("execute data", ((void (*)(void))page)(), page);
    if (!sigsetjmp(back, 1))
        sink = 1 / zero;
    printf("divide: signal %d code %d\n", signo_seen, seen.si_code);
    if (!sigsetjmp(back, 1))
        __asm__ volatile("ud2");
    printf("ud2: signal %d code %d\n", signo_seen, seen.si_code);
    if (!sigsetjmp(back, 1))
        __asm__ volatile("int3");
    printf("int3: signal %d code %d\n", signo_seen, seen.si_code);
    if (!sigsetjmp(back, 1))
        __asm__ volatile("hlt");
    printf("hlt: signal %d code %d\n", signo_seen, seen.si_code);
    FILE *f = tmpfile();
    if (f) {
        ftruncate(fileno(f), 100);
        char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(f), 0);
        TRY("inside file", sink = map[50], 0);
        TRY("past file", sink = *(volatile char *)(map + 5000), map + 5000);
    }
    return 0;
}
