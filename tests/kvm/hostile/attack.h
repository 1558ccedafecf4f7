/* Attacks are a few bytes of machine code, executed in ring 3 with all registers pointing to memory of the program's.
 * The result of each is one line: the signal with its code, trap number and error code, or that nothing happened.
 */
#include <signal.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <x86intrin.h>

static sigjmp_buf back;
static volatile int got_signal, got_code;
static volatile long got_trap, got_error;
static void *volatile got_address;
static unsigned char *code;   /* where the bytes are put */
static unsigned char *memory; /* what registers point to: in the middle of 64 KiB */

static void on_signal(int number, siginfo_t *info, void *context)
{
    ucontext_t *frame = context;
    __writeeflags(__readeflags() & ~0x40000UL); /* AC, which Linux leaves set */
    got_signal = number;
    got_code = info->si_code;
    got_address = info->si_addr;
    got_trap = frame->uc_mcontext.gregs[REG_TRAPNO];
    got_error = frame->uc_mcontext.gregs[REG_ERR];
    siglongjmp(back, 1);
}

static void prepare(void)
{
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    static const int caught[] = {SIGSEGV, SIGILL, SIGBUS, SIGFPE, SIGTRAP, SIGSYS};
    setvbuf(stdout, NULL, _IOFBF, 65536);
    sigaltstack(&alternate, NULL);
    for (unsigned i = 0; i < sizeof caught / sizeof caught[0]; i++)
        sigaction(caught[i], &action, NULL);
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memory = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED || memory == MAP_FAILED)
        exit(100);
    memory += 32768;
}

/* Run code with these registers; what rax is afterwards.  The stack pointer may be lost: the handler has its own. */
static unsigned long enter(unsigned long rax, unsigned long rcx, unsigned long rdx, unsigned long other)
{
    register unsigned char *target asm("r15") = code;
    asm volatile("push %%rbp\n\tpush %%rbx\n\tsub $512, %%rsp\n\tmov %%rsi, %%rbx\n\tcall *%%r15\n\t"
                 "add $512, %%rsp\n\tpop %%rbx\n\tpop %%rbp\n\tcld"
                 : "+a"(rax), "+c"(rcx), "+d"(rdx), "+S"(other), "+r"(target)
                 : "D"(other)
                 : "r8", "r9", "r10", "r11", "r12", "r13", "r14", "memory", "cc");
    return rax;
}

static unsigned long attack_with(const char *name, const void *bytes, int length, unsigned long rax, unsigned long rcx,
                                 unsigned long rdx)
{
    volatile unsigned long result = 0;
    memcpy(code, bytes, length);
    code[length] = 0xc3;
    got_signal = 0;
    if (sigsetjmp(back, 1) == 0)
        result = enter(rax, rcx, rdx, (unsigned long)memory);
    if (name && got_signal)
        printf("%s: %s, code %d, trap %ld, error %lx\n", name, sigabbrev_np(got_signal), got_code, got_trap, got_error);
    else if (name)
        printf("%s: nothing happened\n", name);
    return result;
}

#define ATTACK(name, bytes) \
    attack_with(name, bytes, sizeof(bytes) - 1, (unsigned long)memory, (unsigned long)memory, (unsigned long)memory)
