/* The number of the trap and the error code in signal frames of synchronous faults. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <xmmintrin.h>

static void on_fault(int signo, siginfo_t *info, void *context)
{
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    printf("signal %d code %d trap %lld error %lld\n", signo, info->si_code, r[REG_TRAPNO], r[REG_ERR]);
    r[REG_RIP] = r[REG_R12];
    r[REG_EFL] &= ~0x100;
}

#define FAULT(name, code)                                                                                             \
    do {                                                                                                              \
        printf("%s: ", name);                                                                                         \
        __asm__ volatile("leaq 1f(%%rip),%%r12\n" code "\n1:\n" ::: "r12", "rax", "rcx", "rdx", "memory");            \
    } while (0)
#define AT(name, address, code)                                                                                       \
    do {                                                                                                              \
        register char *p __asm__("rbx") = address;                                                                    \
        printf("%s: ", name);                                                                                         \
        __asm__ volatile("leaq 1f(%%rip),%%r12\n" code "\n1:\n" ::"r"(p) : "r12", "rax", "memory");                   \
    } while (0)

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (int i = 0; i < 5; i++)
        sigaction(signals[i], &sa, NULL);
    FAULT("read of nothing", "xorl %%eax,%%eax; movl (%%rax),%%eax");
    FAULT("write to nothing", "xorl %%eax,%%eax; movl %%eax,(%%rax)");
    FAULT("no address", "movq $0x8000000000000000,%%rax; movl (%%rax),%%eax");
    FAULT("division", "xorl %%ecx,%%ecx; movl $1,%%eax; xorl %%edx,%%edx; divl %%ecx");
    FAULT("undefined", "ud2");
    FAULT("halt", "hlt");
    FAULT("breakpoint", "int3");
    FAULT("int 0x90", "int $0x90");
    FAULT("icebp", ".byte 0xf1");
    FAULT("single step", "pushfq; orl $0x100,(%%rsp); popfq; nop");
    AT("write to read-only", mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "movb (%%rbx),%%al; movb $1,(%%rbx)");
    AT("no access", mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "movb (%%rbx),%%al");
    char *data = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    data[0] = 0xc3;
    AT("no execution", data, "jmp *%%rbx");
    int fd = open("file", O_RDWR | O_CREAT, 0600);
    ftruncate(fd, 100);
    char *file = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    AT("read past the end of a file", file + 4096, "movb (%%rbx),%%al");
    AT("write past the end of a file", file + 4096, "movb %%al,(%%rbx)");
    unsigned short control = 0x037b;
    printf("x87: ");
    __asm__ volatile("fninit; fldcw %0; fldz; fld1; fdiv %%st(1),%%st(0); leaq 1f(%%rip),%%r12; fwait\n1: fninit" ::"m"(
                         control)
                     : "r12");
    unsigned mxcsr = 0x1d80;
    float zero = 0, one = 1;
    printf("SSE: ");
    __asm__ volatile("leaq 1f(%%rip),%%r12; ldmxcsr %0; movss %1,%%xmm0; divss %2,%%xmm0\n1:" ::"m"(mxcsr), "m"(one), "m"(zero)
                     : "r12", "xmm0");
    _mm_setcsr(0x1f80);
    return 0;
}
