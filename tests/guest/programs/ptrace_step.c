/* PTRACE_SINGLESTEP: through plain code, over a system call, into a handler, out of it; the trap flag stays hidden. */
#include "ptrace_common.h"

extern char code_start[], code_call[], code_end[];
__asm__(".text\n"
        "code_start:\n"
        "  mov $1, %eax\n"
        "  mov $39, %eax\n"
        "code_call:\n"
        "  syscall\n"
        "  nop\n"
        "  pushf\n"
        "  pop %rdx\n"
        "  ud2\n"
        "code_end:\n");

static volatile int handled;
static void on_signal(int signo) { handled++; }

static long rip(int pid)
{
    long value = 0;
    pt(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), (long)&value);
    return value;
}

/* Where the program begins: the first line of its maps. */
static long base(const char *maps)
{
    char text[64] = "";
    int fd = open(maps, O_RDONLY);
    read(fd, text, sizeof text - 1);
    close(fd);
    return strtol(text, NULL, 16);
}

int main(int argc, char **argv)
{
    start();
    if (argc > 1)
        return 1;
    signal(SIGUSR1, on_signal);
    int pid = fork();
    siginfo_t si;
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        execl("/proc/self/exe", argv[0], "x", NULL); /* traced from the start: its text is as in the file */
        _exit(1);
    }
    step("exec", pid);
    char maps[64];
    sprintf(maps, "/proc/%d/maps", pid);
    long code = base(maps) + ((long)code_start - base("/proc/self/maps"));
    struct user_regs_struct r;
    pt(PTRACE_GETREGS, pid, 0, (long)&r);
    r.rip = code;
    r.orig_rax = -1;
    T(pt(PTRACE_SETREGS, pid, 0, (long)&r));
    for (int i = 0; i < 6; i++) {
        pt(PTRACE_SINGLESTEP, pid, 0, 0);
        int status = quiet(pid);
        memset(&si, 0, sizeof si);
        pt(PTRACE_GETSIGINFO, pid, 0, (long)&si);
        pt(PTRACE_GETREGS, pid, 0, (long)&r);
        printf("%d: status %x at +%ld code %d addr %d tf %d\n", i, status, rip(pid) - code, si.si_code,
               (long)si.si_addr == rip(pid), (int)(r.eflags >> 8 & 1));
    }
    pt(PTRACE_SINGLESTEP, pid, 0, 0);
    int status = quiet(pid);
    printf("ud2: status %x at +%ld\n", status, rip(pid) - code);
    kill(pid, SIGKILL);
    step("end", pid);

    /* Into a handler, and out of it. */
    pid = fork();
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        raise(SIGUSR1);
        _exit(handled);
    }
    step("stop", pid);
    pt(PTRACE_CONT, pid, 0, 0);
    step("usr1", pid);
    long before = rip(pid);
    pt(PTRACE_SINGLESTEP, pid, 0, SIGUSR1);
    status = quiet(pid);
    memset(&si, 0, sizeof si);
    pt(PTRACE_GETSIGINFO, pid, 0, (long)&si);
    printf("handler: status %x first instruction %d code %d\n", status, rip(pid) == (long)on_signal, si.si_code);
    int steps = 0;
    while (rip(pid) != before && steps < 200) {
        pt(PTRACE_SINGLESTEP, pid, 0, 0);
        status = quiet(pid);
        if (!WIFSTOPPED(status))
            break;
        steps++;
    }
    printf("back: %d status %x, more than three steps %d\n", rip(pid) == before, status, steps > 3);
    pt(PTRACE_CONT, pid, 0, 0);
    step("end", pid);

    /* A whole run, step by step, then on without. */
    pid = fork();
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        volatile int sum = 0;
        for (int i = 0; i < 20; i++)
            sum += i;
        getppid();
        _exit(sum & 0xff);
    }
    step("stop", pid);
    for (int i = 0; i < 300; i++) {
        pt(PTRACE_SINGLESTEP, pid, 0, 0);
        status = quiet(pid);
        if (status != 0x57f)
            break;
    }
    if (WIFSTOPPED(status)) {
        pt(PTRACE_CONT, pid, 0, 0);
        status = quiet(pid);
    }
    show("run", status);
    T(pt(PTRACE_SINGLESTEP, pid, 0, 0));
    return 0;
}
