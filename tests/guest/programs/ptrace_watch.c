/* Debug registers: watchpoints for writes, breakpoints on instructions, errors. */
#include "ptrace_common.h"

static volatile long watched, other;

__attribute__((noinline)) static void touch(int n)
{
    for (int i = 0; i < n; i++)
        other += i;
    watched = n;
}

static long dr(int i) { return offsetof(struct user, u_debugreg) + 8 * i; }

static long get(int pid, int i)
{
    long value = 0;
    pt(PTRACE_PEEKUSER, pid, dr(i), (long)&value);
    return value;
}

int main(void)
{
    start();
    int pid = fork();
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        touch(3);
        touch(4);
        getppid();
        touch(5);
        raise(SIGSTOP);
        touch(6);
        _exit(watched);
    }
    step("stop", pid);
    T(pt(PTRACE_POKEUSER, pid, dr(0), (long)&watched));
    T(pt(PTRACE_POKEUSER, pid, dr(7), 1 | 0xd << 16)); /* write, 8 bytes */
    siginfo_t si;
    for (int i = 0; i < 3; i++) {
        pt(PTRACE_CONT, pid, 0, 0);
        int status = quiet(pid);
        long value = 0;
        pt(PTRACE_GETSIGINFO, pid, 0, (long)&si);
        pt(PTRACE_PEEKDATA, pid, (long)&watched, (long)&value);
        printf("status %x code %d value %ld dr6 %lx\n", status, si.si_code, value, get(pid, 6) & 0xf);
        pt(PTRACE_POKEUSER, pid, dr(6), 0);
    }
    /* An instruction, instead. */
    T(pt(PTRACE_POKEUSER, pid, dr(7), 0));
    T(pt(PTRACE_POKEUSER, pid, dr(1), (long)touch));
    T(pt(PTRACE_POKEUSER, pid, dr(7), 4));
    pt(PTRACE_CONT, pid, 0, 0);
    step("the stop", pid);
    pt(PTRACE_CONT, pid, 0, 0);
    step("breakpoint", pid);
    struct user_regs_struct r;
    pt(PTRACE_GETREGS, pid, 0, (long)&r);
    printf("at touch %d with %lld, dr6 %lx, tf %d\n", r.rip == (long)touch, r.rdi, get(pid, 6) & 0xf, (int)(r.eflags >> 8 & 1));
    T(pt(PTRACE_POKEUSER, pid, dr(7), 4 | 0x4 << 20)); /* code of two bytes */
    T(pt(PTRACE_POKEUSER, pid, dr(0), (long)&watched + 1));
    T(pt(PTRACE_POKEUSER, pid, dr(7), 1 | 0xd << 16)); /* not aligned */
    T(pt(PTRACE_POKEUSER, pid, dr(7), 0));
    pt(PTRACE_CONT, pid, 0, 0);
    step("end", pid);
    return 0;
}
