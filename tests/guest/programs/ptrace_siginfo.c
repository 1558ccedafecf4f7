/* A tracer's view and changes of signals: siginfo, masks, pending ones. */
#include "ptrace_common.h"

static void handler(int signo, siginfo_t *si, void *context)
{
    printf("handler %d code %d value %d pid %d\n", signo, si->si_code, si->si_value.sival_int, si->si_pid == getpid());
}

static void message(int pid)
{
    siginfo_t si;
    memset(&si, 0, sizeof si);
    long r = pt(PTRACE_GETSIGINFO, pid, 0, (long)&si);
    printf("  siginfo %ld signo %d code %d value %d\n", r, si.si_signo, si.si_code, si.si_value.sival_int);
}

int main(void)
{
    start();
    int pid = fork();
    if (!pid) {
        struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
        sigaction(SIGUSR1, &sa, NULL);
        sigaction(SIGUSR2, &sa, NULL);
        sigaction(SIGRTMIN, &sa, NULL);
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        union sigval v = {.sival_int = 42};
        sigqueue(getpid(), SIGRTMIN, v);
        sigqueue(getpid(), SIGRTMIN, v);
        raise(SIGUSR1);
        raise(SIGUSR1);
        sigset_t set, old;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR2);
        sigprocmask(SIG_BLOCK, &set, NULL);
        raise(SIGUSR1);
        printf("unblocking\n");
        sigprocmask(SIG_UNBLOCK, &set, NULL);
        sigaddset(&set, SIGRTMIN);
        sigprocmask(SIG_BLOCK, &set, NULL);
        for (int i = 0; i < 3; i++) {
            v.sival_int = i;
            sigqueue(getpid(), SIGRTMIN, v);
        }
        syscall(SYS_tgkill, getpid(), getpid(), SIGUSR2);
        raise(SIGSTOP);
        sigprocmask(SIG_SETMASK, NULL, &old);
        printf("mask usr1 %d usr2 %d\n", sigismember(&old, SIGUSR1), sigismember(&old, SIGUSR2));
        *(volatile int *)0x1234 = 1;
        _exit(1);
    }
    step("stop", pid);
    message(pid);
    pt(PTRACE_CONT, pid, 0, 0);
    step("rt", pid);
    message(pid);
    siginfo_t si;
    pt(PTRACE_GETSIGINFO, pid, 0, (long)&si);
    si.si_value.sival_int = 1000;
    T(pt(PTRACE_SETSIGINFO, pid, 0, (long)&si));
    pt(PTRACE_CONT, pid, 0, SIGRTMIN);
    step("rt", pid);
    pt(PTRACE_CONT, pid, 0, SIGRTMIN);
    step("usr1", pid);
    message(pid);
    pt(PTRACE_CONT, pid, 0, SIGUSR2);
    step("usr1", pid);
    pt(PTRACE_CONT, pid, 0, SIGUSR1);
    step("usr1 while usr2 is blocked", pid);
    pt(PTRACE_CONT, pid, 0, SIGUSR2);
    step("usr2 when unblocked", pid);
    message(pid);
    pt(PTRACE_CONT, pid, 0, SIGUSR2);
    step("stop", pid);
    siginfo_t infos[4];
    struct __ptrace_peeksiginfo_args { uint64_t off; uint32_t flags; int32_t nr; } args = {0, 1, 4};
    T(pt(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)infos));
    for (int i = 0; i < 3; i++)
        printf("  pending %d value %d\n", infos[i].si_signo - SIGRTMIN, infos[i].si_value.sival_int);
    args.off = 2;
    T(pt(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)infos));
    args = (struct __ptrace_peeksiginfo_args){0, 0, 4};
    T(pt(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)infos));
    printf("  pending %d\n", infos[0].si_signo);
    args.nr = -1;
    T(pt(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)infos));
    args = (struct __ptrace_peeksiginfo_args){0, 8, 4};
    T(pt(PTRACE_PEEKSIGINFO, pid, (long)&args, (long)infos));
    uint64_t mask = 0;
    T(pt(PTRACE_GETSIGMASK, pid, 8, (long)&mask));
    printf("mask %lx\n", mask);
    T(pt(PTRACE_GETSIGMASK, pid, 4, (long)&mask));
    mask = 1 << (SIGUSR1 - 1) | 1 << (SIGKILL - 1) | 1 << (SIGUSR2 - 1) | 1ULL << (SIGRTMIN - 1);
    T(pt(PTRACE_SETSIGMASK, pid, 8, (long)&mask));
    T(pt(PTRACE_GETSIGMASK, pid, 8, (long)&mask));
    printf("mask %lx\n", mask);
    pt(PTRACE_CONT, pid, 0, 0);
    step("segv", pid);
    pt(PTRACE_GETSIGINFO, pid, 0, (long)&si);
    printf("code %d addr %lx\n", si.si_code, (long)si.si_addr);
    pt(PTRACE_CONT, pid, 0, SIGSEGV);
    step("end", pid);
    return 0;
}
