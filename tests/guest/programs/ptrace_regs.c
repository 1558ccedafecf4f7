/* Registers: GETREGS, PEEKUSER, register sets, floating point. */
#include "ptrace_common.h"

#define OFF(field) offsetof(struct user_regs_struct, field)

int main(void)
{
    start();
    int pid = fork();
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        double x = 1.5;
        uint64_t rax = SYS_tgkill, high, low;
        __asm__ volatile("movq %[x], %%xmm5\n"
                         "fld1\n"
                         "mov $0x1111, %%r12\n"
                         "mov $0x2222, %%r13\n"
                         "mov $0x3333, %%rbx\n"
                         "syscall\n"
                         "fstp %%st(0)\n"
                         "movq %%xmm5, %[low]\n"
                         "mov %%r12, %[high]\n"
                         : "+a"(rax), [low] "=&r"(low), [high] "=&r"(high)
                         : [x] "r"(x), "D"((long)getpid()), "S"((long)getpid()), "d"((long)SIGSTOP)
                         : "rcx", "r11", "r12", "r13", "rbx", "xmm5", "memory");
        double y;
        memcpy(&y, &low, 8);
        printf("child: xmm5 %g r12 %lx\n", y, (long)high);
        fflush(stdout);
        _exit(3);
    }
    step("stop", pid);
    struct user_regs_struct r, again;
    T(pt(PTRACE_GETREGS, pid, 0, (long)&r));
    printf("r12 %llx r13 %llx rbx %llx orig %lld rax %lld cs %llx ss %llx ds %llx eflags %d\n", r.r12, r.r13, r.rbx,
           (long long)r.orig_rax, (long long)r.rax, r.cs, r.ss, r.ds, (int)(r.eflags & 0x202));
    printf("fs_base %d\n", r.fs_base != 0);
    long value = 0;
    T(pt(PTRACE_PEEKUSER, pid, OFF(r12), (long)&value));
    printf("%lx\n", value);
    T(pt(PTRACE_PEEKUSER, pid, OFF(r12) + 1, (long)&value));
    T(pt(PTRACE_PEEKUSER, pid, 5000, (long)&value));
    T(pt(PTRACE_PEEKUSER, pid, sizeof(struct user), (long)&value));
    T(pt(PTRACE_PEEKUSER, pid, sizeof(struct user) - 8, (long)&value));
    T(pt(PTRACE_PEEKUSER, pid, offsetof(struct user, u_debugreg[7]), (long)&value));
    T(pt(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[4]), 1));
    T(pt(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg[0]), -1));
    T(pt(PTRACE_POKEUSER, pid, 500, 1));
    T(pt(PTRACE_POKEUSER, pid, OFF(r12), 0xabcdef));
    T(pt(PTRACE_POKEUSER, pid, OFF(cs), 0));
    T(pt(PTRACE_POKEUSER, pid, OFF(cs), 8));
    T(pt(PTRACE_POKEUSER, pid, OFF(ss), 0x10));
    T(pt(PTRACE_POKEUSER, pid, OFF(fs_base), -1L));
    T(pt(PTRACE_POKEUSER, pid, OFF(eflags), -1L));
    T(pt(PTRACE_PEEKUSER, pid, OFF(eflags), (long)&value));
    printf("eflags %lx\n", value);
    T(pt(PTRACE_POKEUSER, pid, OFF(eflags), r.eflags));

    struct iovec iov = {&again, sizeof again};
    T(pt(PTRACE_GETREGSET, pid, NT_PRSTATUS, (long)&iov));
    printf("length %zu r12 %llx same rip %d\n", iov.iov_len, again.r12, again.rip == r.rip);
    iov.iov_len = 24;
    T(pt(PTRACE_GETREGSET, pid, NT_PRSTATUS, (long)&iov));
    printf("length %zu\n", iov.iov_len);
    iov.iov_len = 20;
    T(pt(PTRACE_GETREGSET, pid, NT_PRSTATUS, (long)&iov));
    iov.iov_len = 100000 & ~7;
    T(pt(PTRACE_GETREGSET, pid, NT_PRSTATUS, (long)&iov));
    printf("length %zu\n", iov.iov_len);
    iov.iov_len = 216;
    T(pt(PTRACE_GETREGSET, pid, 0x9999, (long)&iov));
    again.r12 = 0x777;
    iov = (struct iovec){&again, 32};
    T(pt(PTRACE_SETREGSET, pid, NT_PRSTATUS, (long)&iov));
    pt(PTRACE_GETREGS, pid, 0, (long)&r);
    printf("r12 %llx\n", r.r12);

    struct user_fpregs_struct fp, fp2;
    T(pt(PTRACE_GETFPREGS, pid, 0, (long)&fp));
    double x;
    memcpy(&x, &fp.xmm_space[20], 8);
    printf("xmm5 %g cwd %x mxcsr %x ftw %x\n", x, fp.cwd, fp.mxcsr, fp.ftw);
    iov = (struct iovec){&fp2, sizeof fp2};
    T(pt(PTRACE_GETREGSET, pid, NT_PRFPREG, (long)&iov));
    printf("length %zu same %d\n", iov.iov_len, memcmp(&fp, &fp2, 416) == 0);
    x = 2.25;
    memcpy(&fp.xmm_space[20], &x, 8);
    T(pt(PTRACE_SETFPREGS, pid, 0, (long)&fp));
    fp2.mxcsr = 0xffffffff;
    T(pt(PTRACE_SETFPREGS, pid, 0, (long)&fp2));
    static char state[16384];
    iov = (struct iovec){state, sizeof state};
    T(pt(PTRACE_GETREGSET, pid, NT_X86_XSTATE, (long)&iov));
    uint64_t xcr0;
    memcpy(&xcr0, state + 464, 8);
    memcpy(&x, state + 160 + 5 * 16, 8);
    printf("whole %d features %d xmm5 %g\n", iov.iov_len >= 576, (int)(xcr0 & 7), x);
    x = 3.125;
    memcpy(state + 160 + 5 * 16, &x, 8);
    T(pt(PTRACE_SETREGSET, pid, NT_X86_XSTATE, (long)&iov));
    iov.iov_len = 64;
    T(pt(PTRACE_SETREGSET, pid, NT_X86_XSTATE, (long)&iov));
    iov.iov_len = sizeof state;
    pt(PTRACE_GETREGSET, pid, NT_X86_XSTATE, (long)&iov);
    state[512 + 7] = 0x7f;
    T(pt(PTRACE_SETREGSET, pid, NT_X86_XSTATE, (long)&iov));
    T(pt(PTRACE_GETFPREGS, pid, 0, 8));
    T(pt(PTRACE_GETREGS, pid, 0, 8));
    T(pt(PTRACE_GETREGSET, pid, NT_PRSTATUS, 8));
    T(pt(18, pid, 0, (long)&fp));
    T(pt(0x5555, pid, 0, 0));
    long base = 0;
    T(pt(30, pid, (long)&base, 0x1003));
    pt(PTRACE_GETREGS, pid, 0, (long)&r);
    printf("fs %d\n", base == (long)r.fs_base);
    pt(PTRACE_CONT, pid, 0, 0);
    step("end", pid);
    return 0;
}
