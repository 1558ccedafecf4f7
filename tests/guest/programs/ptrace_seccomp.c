/* SECCOMP_RET_TRACE: without a tracer, with one, and with a changed call. */
#include "ptrace_common.h"
#include <linux/filter.h>
#include <linux/seccomp.h>

static void filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE | 77),
        BPF_JUMP(BPF_JMP | BPF_JEQ, SYS_getpgid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 5),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {6, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        perror("seccomp");
}

int main(void)
{
    start();
    int pid = fork(), status;
    if (!pid) {
        filter();
        errno = 0;
        long r = syscall(SYS_getppid);
        printf("untraced %ld %d\n", r, errno);
        _exit(0);
    }
    step("end", pid);
    pid = fork();
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        filter();
        raise(SIGSTOP);
        errno = 0;
        printf("traced %d\n", syscall(SYS_getppid) > 0);
        printf("skipped %ld\n", syscall(SYS_getppid));
        errno = 0;
        printf("another %d\n", syscall(SYS_getppid) == getpid());
        long r = syscall(SYS_getppid);
        printf("refused %ld %d\n", r, errno);
        errno = 0;
        r = syscall(SYS_getppid);
        printf("without the option %ld %d\n", r, errno);
        _exit(0);
    }
    step("stop", pid);
    pt(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD);
    struct user_regs_struct r;
    for (int i = 0; i < 4; i++) {
        pt(PTRACE_CONT, pid, 0, 0);
        status = step("seccomp", pid);
        unsigned long message = 0;
        pt(PTRACE_GETEVENTMSG, pid, 0, (long)&message);
        struct ptrace_syscall_info info;
        memset(&info, 0, sizeof info);
        long n = pt(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, (long)&info);
        pt(PTRACE_GETREGS, pid, 0, (long)&r);
        printf("message %ld info %ld op %d nr %lld data %d rax %lld\n", message, n, info.op, info.seccomp.nr,
               info.seccomp.ret_data, (long long)r.rax);
        if (i == 1) {
            r.orig_rax = -1;
            r.rax = 333;
        }
        if (i == 2)
            r.orig_rax = SYS_getpid;
        if (i == 3)
            r.orig_rax = SYS_getpgid;
        pt(PTRACE_SETREGS, pid, 0, (long)&r);
    }
    pt(PTRACE_SETOPTIONS, pid, 0, 0);
    pt(PTRACE_CONT, pid, 0, 0);
    step("end", pid);
    /* Entry stop, seccomp stop, exit stop. */
    pid = fork();
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        filter();
        raise(SIGSTOP);
        syscall(SYS_getppid);
        _exit(0);
    }
    step("stop", pid);
    pt(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD);
    for (;;) {
        pt(PTRACE_SYSCALL, pid, 0, 0);
        status = quiet(pid);
        if (!WIFSTOPPED(status))
            break;
        pt(PTRACE_GETREGS, pid, 0, (long)&r);
        if (r.orig_rax == SYS_getppid || status >> 16)
            printf("status %x\n", status);
    }
    show("end", status);
    return 0;
}
