/* PTRACE_SEIZE, INTERRUPT, LISTEN; group stops and their end. */
#include "ptrace_common.h"

static int child(void)
{
    int pid = fork();
    if (!pid) {
        setpgid(0, 0); /* not orphaned: its parent is another group's */
        alarm(30);
        for (;;)
            pause();
    }
    until_state(pid, "S");
    return pid;
}

static void message(int pid)
{
    siginfo_t si;
    memset(&si, 0, sizeof si);
    long r = pt(PTRACE_GETSIGINFO, pid, 0, (long)&si);
    printf("  siginfo %ld signo %d code %x\n", r, si.si_signo, si.si_code);
}

int main(void)
{
    start();
    int status, pid = child();
    T(pt(PTRACE_SEIZE, pid, 8, 0));
    T(pt(PTRACE_SEIZE, pid, 0, 0x80000000));
    T(pt(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD));
    T(waitpid(pid, &status, WNOHANG));
    T(pt(PTRACE_GETSIGINFO, pid, 0, (long)&status));
    T(pt(PTRACE_INTERRUPT, pid, 0, 0));
    step("interrupted", pid);
    message(pid);
    T(pt(PTRACE_INTERRUPT, pid, 0, 0));
    T(waitpid(pid, &status, WNOHANG));
    T(pt(PTRACE_CONT, pid, 0, 0));
    step("the second interrupt", pid);
    struct user_regs_struct r;
    pt(PTRACE_GETREGS, pid, 0, (long)&r);
    printf("orig %lld\n", (long long)r.orig_rax);
    T(pt(PTRACE_SYSCALL, pid, 0, 0));
    step("restarted call", pid);
    T(pt(PTRACE_LISTEN, pid, 0, 0));
    T(pt(PTRACE_CONT, pid, 0, 0));
    until_state(pid, "S");

    /* A group stop. */
    kill(pid, SIGSTOP);
    step("stop signal", pid);
    message(pid);
    T(pt(PTRACE_CONT, pid, 0, SIGSTOP));
    step("group stop", pid);
    message(pid);
    T(pt(PTRACE_LISTEN, pid, 0, 0));
    T(waitpid(pid, &status, WNOHANG));
    T(pt(PTRACE_GETREGS, pid, 0, (long)&r));
    T(pt(PTRACE_CONT, pid, 0, 0));
    kill(pid, SIGCONT);
    step("continued", pid);
    message(pid);
    T(pt(PTRACE_CONT, pid, 0, 0));
    step("cont signal", pid);
    T(pt(PTRACE_CONT, pid, 0, SIGCONT));
    until_state(pid, "S");

    /* INTERRUPT while listening. */
    kill(pid, SIGTSTP);
    step("tstp", pid);
    T(pt(PTRACE_CONT, pid, 0, SIGTSTP));
    step("group stop", pid);
    T(pt(PTRACE_LISTEN, pid, 0, 0));
    T(pt(PTRACE_INTERRUPT, pid, 0, 0));
    step("interrupted", pid);
    message(pid);
    T(pt(PTRACE_CONT, pid, 0, 0));
    until_state(pid, "S");
    kill(pid, SIGCONT);
    step("trap of cont", pid);
    T(pt(PTRACE_CONT, pid, 0, 0));
    step("cont signal", pid);
    T(pt(PTRACE_DETACH, pid, 0, 0));
    kill(pid, SIGKILL);
    step("end", pid);

    /* Seize one that is stopped. */
    pid = child();
    kill(pid, SIGSTOP);
    waitpid(pid, &status, WUNTRACED);
    T(pt(PTRACE_SEIZE, pid, 0, 0));
    step("seized in a stop", pid);
    message(pid);
    T(pt(PTRACE_LISTEN, pid, 0, 0));
    kill(pid, SIGCONT);
    step("continued", pid);
    T(pt(PTRACE_CONT, pid, 0, 0));
    step("cont signal", pid);
    T(pt(PTRACE_CONT, pid, 0, SIGCONT));
    T(pt(PTRACE_KILL, pid, 0, 0));
    step("end", pid);

    /* INTERRUPT and LISTEN are for the seized. */
    pid = child();
    pt(PTRACE_ATTACH, pid, 0, 0);
    step("attached", pid);
    T(pt(PTRACE_INTERRUPT, pid, 0, 0));
    T(pt(PTRACE_LISTEN, pid, 0, 0));
    kill(pid, SIGKILL);
    step("end", pid);

    /* Interrupt one that computes. */
    volatile int *word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid = fork();
    if (!pid) {
        for (;;)
            word[0]++;
    }
    while (!word[0])
        usleep(100);
    T(pt(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL));
    for (int i = 0; i < 20; i++) {
        pt(PTRACE_INTERRUPT, pid, 0, 0);
        status = quiet(pid);
        if (status >> 8 != (SIGTRAP | PTRACE_EVENT_STOP << 8))
            printf("status %x\n", status);
        pt(PTRACE_CONT, pid, 0, 0);
    }
    kill(pid, SIGKILL);
    step("end", pid);
    return 0;
}
