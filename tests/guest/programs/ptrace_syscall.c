/* PTRACE_SYSCALL: entry and exit stops, changed numbers, arguments and results; SYSEMU; GET_SYSCALL_INFO. */
#include "ptrace_common.h"

static void info(int pid)
{
    struct ptrace_syscall_info i;
    memset(&i, 0, sizeof i);
    long n = pt(PTRACE_GET_SYSCALL_INFO, pid, sizeof i, (long)&i);
    printf("  info op %d length %ld arch %x", i.op, n, i.arch);
    if (i.op == PTRACE_SYSCALL_INFO_ENTRY)
        printf(" nr %llu first %x", i.entry.nr, (int)i.entry.args[0]);
    else if (i.op == PTRACE_SYSCALL_INFO_EXIT)
        printf(" result %lld error %d", i.exit.rval, i.exit.is_error);
    printf("\n");
}

static struct user_regs_struct regs(int pid)
{
    struct user_regs_struct r;
    pt(PTRACE_GETREGS, pid, 0, (long)&r);
    return r;
}

static int next(int pid, long request)
{
    pt(request, pid, 0, 0);
    return quiet(pid);
}

int main(void)
{
    start();
    int pid = fork(), status;
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        syscall(SYS_getpgid, 1, 2, 3);
        syscall(SYS_close, -1);
        syscall(SYS_getppid);
        long a = syscall(SYS_getppid);
        long b = syscall(SYS_close, 12345);
        long c = syscall(SYS_dup, 70000);
        char text[] = "hello\n";
        long d = syscall(SYS_write, 1, text, 6);
        printf("child: %ld %ld %ld %ld\n", a, b, c == getpid(), d);
        long e = syscall(SYS_dup, 70001);
        printf("child: emulated %ld %d\n", e, errno);
        _exit(7);
    }
    step("stop", pid);
    info(pid);
    /* Without TRACESYSGOOD. */
    next(pid, PTRACE_SYSCALL);
    struct user_regs_struct r = regs(pid);
    printf("entry %lld rax %lld args %lld %lld %lld\n", (long long)r.orig_rax, (long long)r.rax, r.rdi, r.rsi, r.rdx);
    info(pid);
    siginfo_t si;
    pt(PTRACE_GETSIGINFO, pid, 0, (long)&si);
    printf("siginfo %d %x\n", si.si_signo, si.si_code);
    next(pid, PTRACE_SYSCALL);
    r = regs(pid);
    printf("exit %lld\n", (long long)r.orig_rax);
    T(pt(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
    status = next(pid, PTRACE_SYSCALL);
    show("entry", status);
    info(pid);
    pt(PTRACE_GETSIGINFO, pid, 0, (long)&si);
    printf("siginfo %d %x pid %d\n", si.si_signo, si.si_code, si.si_pid == pid);
    status = next(pid, PTRACE_SYSCALL);
    show("exit", status);
    info(pid);
    /* getppid: another result. */
    next(pid, PTRACE_SYSCALL);
    next(pid, PTRACE_SYSCALL);
    next(pid, PTRACE_SYSCALL);
    next(pid, PTRACE_SYSCALL);
    r = regs(pid);
    r.rax = 4242;
    pt(PTRACE_SETREGS, pid, 0, (long)&r);
    /* close: not made at all, with a result of ours. */
    next(pid, PTRACE_SYSCALL);
    r = regs(pid);
    printf("to skip: %lld\n", (long long)r.orig_rax);
    r.orig_rax = -1;
    r.rax = 77;
    pt(PTRACE_SETREGS, pid, 0, (long)&r);
    status = next(pid, PTRACE_SYSCALL);
    r = regs(pid);
    show("skipped", status);
    printf("orig %lld rax %lld\n", (long long)r.orig_rax, (long long)r.rax);
    /* dup becomes getpid. */
    next(pid, PTRACE_SYSCALL);
    T(pt(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, orig_rax), SYS_getpid));
    next(pid, PTRACE_SYSCALL);
    r = regs(pid);
    printf("getpid instead: %d orig %lld\n", (int)r.rax == pid, (long long)r.orig_rax);
    /* write: the bytes to write are changed at entry. */
    next(pid, PTRACE_SYSCALL);
    r = regs(pid);
    printf("write %lld\n", r.rdx);
    long word = pt(PTRACE_PEEKDATA, pid, r.rsi, (long)&word) < 0 ? 0 : word;
    memcpy(&word, "HELLO", 5);
    pt(PTRACE_POKEDATA, pid, r.rsi, word);
    r.rdx = 5;
    pt(PTRACE_SETREGS, pid, 0, (long)&r);
    next(pid, PTRACE_SYSCALL);
    printf("\nwritten\n");
    /* SYSEMU: only entries are seen, no call is made. */
    int emulated = 0;
    for (;;) {
        status = next(pid, PTRACE_SYSCALL);
        r = regs(pid);
        if (!WIFSTOPPED(status))
            break;
        if ((long)r.orig_rax == SYS_dup) {
            printf("dup seen\n");
            next(pid, PTRACE_SYSCALL);
            break;
        }
    }
    pt(PTRACE_SYSEMU, pid, 0, 0);
    for (;;) {
        status = quiet(pid);
        if (!WIFSTOPPED(status)) {
            show("end", status);
            break;
        }
        r = regs(pid);
        info(pid);
        if ((long)r.orig_rax == SYS_exit_group) {
            r.orig_rax = SYS_exit_group;
            printf("exit_group emulated, exits with %lld\n", r.rdi);
            kill(pid, SIGKILL);
            show("end", quiet(pid));
            break;
        }
        r.rax = r.rdx;
        pt(PTRACE_SETREGS, pid, 0, (long)&r);
        pt(PTRACE_SYSEMU, pid, 0, 0);
        if (++emulated > 5)
            break;
    }
    /* Restarts are seen as such. */
    int fds[2];
    pipe(fds);
    pid = fork();
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        char c = 0;
        long n = read(fds[0], &c, 1);
        printf("read %ld %c\n", n, c);
        fflush(stdout);
        _exit(0);
    }
    step("stop", pid);
    pt(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD);
    next(pid, PTRACE_SYSCALL);
    pt(PTRACE_SYSCALL, pid, 0, 0);
    until_state(pid, "S");
    kill(pid, SIGWINCH);
    status = quiet(pid);
    r = regs(pid);
    show("interrupted", status);
    printf("exit %lld rax %lld\n", (long long)r.orig_rax, (long long)r.rax);
    status = next(pid, PTRACE_SYSCALL);
    show("signal", status);
    r = regs(pid);
    printf("at the signal %lld rax %lld\n", (long long)r.orig_rax, (long long)r.rax);
    status = next(pid, PTRACE_SYSCALL);
    r = regs(pid);
    show("again", status);
    printf("entry %lld rax %lld\n", (long long)r.orig_rax, (long long)r.rax);
    write(fds[1], "z", 1);
    status = next(pid, PTRACE_SYSCALL);
    r = regs(pid);
    printf("exit %lld rax %lld\n", (long long)r.orig_rax, (long long)r.rax);
    next(pid, PTRACE_CONT);
    return 0;
}
