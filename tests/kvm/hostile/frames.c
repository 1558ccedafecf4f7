/* Signal frames that a program forges: rt_sigreturn must leave it in ring 3, with flags of its own, or end in a
 * signal. */
#include "attack.h"
#include <sys/wait.h>

enum { FLAGS, SELECTOR, CODE, STACK, VECTORS, BASE };
static int what;
static unsigned long value;

static void forge(int number, siginfo_t *info, void *context)
{
    ucontext_t *frame = context;
    greg_t *registers = frame->uc_mcontext.gregs;
    (void)number, (void)info;
    switch (what) {
    case FLAGS: registers[REG_EFL] = value; break;
    case SELECTOR: registers[REG_CSGSFS] = value; break;
    case CODE: registers[REG_RIP] = value; break;
    case STACK: registers[REG_RSP] = value; break;
    case VECTORS: memset((char *)frame->uc_mcontext.fpregs + value, 0xff, 64); break;
    case BASE: frame->uc_mcontext.fpregs = (void *)value; break;
    }
}

static void attempt(const char *name, int kind, unsigned long number)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        unsigned long flags;
        what = kind;
        value = number;
        raise(SIGUSR1);
        asm volatile("pushf\n\tpop %0" : "=r"(flags));
        if (kind != SELECTOR)
            printf("%s %lx: went on, IOPL %lu, IF %lu\n", name, number, flags >> 12 & 3, flags >> 9 & 1);
        fflush(stdout);
        _exit(7);
    }
    int status;
    waitpid(child, &status, 0);
    if (kind == SELECTOR && (WIFSIGNALED(status) || WEXITSTATUS(status) == 7))
        printf("%s %lx: not in ring 0\n", name, number); /* the host ends it, cloche takes no selectors from a frame */
    else if (WIFSIGNALED(status))
        printf("%s %lx: %s\n", name, number, sigabbrev_np(WTERMSIG(status)));
    else if (WEXITSTATUS(status) != 7)
        printf("%s %lx: status %d\n", name, number, WEXITSTATUS(status));
}

int main(void)
{
    static const unsigned long flags[] = {0x0, 0x202, 0x3202, 0x2, 0x4202, 0x20202, 0x40202, 0x200202, 0x180202, 0x80202};
    static const unsigned long selectors[] = {0x002b000000000033, 0x002b000000000000, 0x002b000000000008, 0x002b000000000010,
                                              0x0018000000000033, 0x0010000000000033, 0x0000000000000033, 0x002b0000000000ff,
                                              0x002b00000000002b, 0x0023000000000033, 0xffff00000000ffff, 0x0033000000000033};
    static const unsigned long addresses[] = {0x0, 0x800000000000, 0x7ffffffff000, 0x7fffffffffff, 0xffff800000000000,
                                              0xffffffff81000000, 0x8000000000000000, 0xffffffffffffffff};
    struct sigaction action = {.sa_sigaction = forge, .sa_flags = SA_SIGINFO};
    setvbuf(stdout, NULL, _IOFBF, 65536);
    sigaction(SIGUSR1, &action, NULL);
    for (unsigned i = 0; i < sizeof flags / sizeof flags[0]; i++)
        attempt("flags", FLAGS, flags[i]);
    for (unsigned i = 0; i < sizeof selectors / sizeof selectors[0]; i++)
        attempt("selectors", SELECTOR, selectors[i]);
    for (unsigned i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
        attempt("rip", CODE, addresses[i]);
        attempt("rsp", STACK, addresses[i]);
        attempt("fpregs", BASE, addresses[i]);
    }
    for (unsigned long offset = 32; offset < 544; offset += 64)
        attempt("xsave", VECTORS, offset);
    puts("alive");
    return 0;
}
