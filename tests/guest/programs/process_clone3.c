/* clone3(2): combinations that are refused, and that a refused clone leaves no child; waitid on O_NONBLOCK pidfds. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void try(const char *name, struct clone_args a)
{
    long r = syscall(SYS_clone3, &a, sizeof a);
    if (!r)
        _exit(0);
    if (r < 0)
        printf("%s: %s\n", name, strerrorname_np(errno));
    else
        printf("%s: child %d\n", name, waitpid(r, NULL, __WALL) == r);
    siginfo_t info;
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | __WALL) == 0)
        printf("there is a child left\n");
}
#define TRY(name, ...) try(name, (struct clone_args){__VA_ARGS__})

int main(void)
{
    signal(60, SIG_IGN);
    setvbuf(stdout, NULL, _IONBF, 0);
    int pidfd = -1, tid = -1;
    TRY("plain", .exit_signal = SIGCHLD);
    TRY("no signal", .exit_signal = 0);
    TRY("signal 65", .exit_signal = 65);
    TRY("signal 256", .exit_signal = 256);
    TRY("signal in flags", .flags = SIGCHLD);
    TRY("handlers without memory", .flags = CLONE_SIGHAND, .exit_signal = SIGCHLD);
    TRY("thread without handlers", .flags = CLONE_THREAD);
    TRY("thread with a signal", .flags = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM, .exit_signal = SIGCHLD);
    TRY("detached", .flags = CLONE_DETACHED, .exit_signal = SIGCHLD);
    TRY("mounts and directories", .flags = CLONE_FS | CLONE_NEWNS, .exit_signal = SIGCHLD);
    TRY("users and directories", .flags = CLONE_FS | CLONE_NEWUSER, .exit_signal = SIGCHLD);
    TRY("thread in pids", .flags = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_NEWPID);
    TRY("pidfd", .flags = CLONE_PIDFD, .pidfd = (uintptr_t)&pidfd, .exit_signal = SIGCHLD);
    printf("pidfd %d\n", pidfd >= 0);
    TRY("pidfd nowhere", .flags = CLONE_PIDFD, .pidfd = 16, .exit_signal = SIGCHLD);
    TRY("tid nowhere", .flags = CLONE_CHILD_SETTID, .child_tid = 16, .exit_signal = SIGCHLD);
    TRY("parent's tid", .flags = CLONE_PARENT_SETTID, .parent_tid = (uintptr_t)&tid, .exit_signal = SIGCHLD);
    printf("tid %d\n", tid > 0);
    TRY("parent's tid nowhere", .flags = CLONE_PARENT_SETTID, .parent_tid = 16, .exit_signal = SIGCHLD);
    struct rlimit few = {dup(0), 1024}, many = {1024, 1024};
    close(few.rlim_cur);
    setrlimit(RLIMIT_NOFILE, &few);
    TRY("no place for the pidfd", .flags = CLONE_PIDFD, .pidfd = (uintptr_t)&pidfd, .exit_signal = SIGCHLD);
    TRY("... nor of a vfork", .flags = CLONE_PIDFD | CLONE_VFORK, .pidfd = (uintptr_t)&pidfd, .exit_signal = SIGCHLD);
    setrlimit(RLIMIT_NOFILE, &many);
    TRY("a place again", .flags = CLONE_PIDFD, .pidfd = (uintptr_t)&pidfd, .exit_signal = SIGCHLD);
    TRY("stack without size", .stack = 4096, .exit_signal = SIGCHLD);
    TRY("size without stack", .stack_size = 4096, .exit_signal = SIGCHLD);
    TRY("clear and share handlers", .flags = CLONE_CLEAR_SIGHAND | CLONE_SIGHAND | CLONE_VM, .exit_signal = SIGCHLD);
    TRY("clear handlers", .flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD);
    TRY("control group", .flags = CLONE_INTO_CGROUP, .cgroup = 99, .exit_signal = SIGCHLD);
    TRY("unknown flag", .flags = 1ULL << 40, .exit_signal = SIGCHLD);
    TRY("too many tids", .set_tid_size = 40, .exit_signal = SIGCHLD);
    TRY("tids nowhere", .set_tid_size = 1, .exit_signal = SIGCHLD);
    TRY("vfork, untraced", .flags = CLONE_UNTRACED | CLONE_VFORK, .exit_signal = SIGCHLD);
    TRY("input and output", .flags = CLONE_IO, .exit_signal = SIGCHLD);
    TRY("parent with a signal", .flags = CLONE_PARENT, .exit_signal = SIGCHLD);
    struct clone_args a = {.exit_signal = SIGCHLD};
    char longer[128] = {0};
    memcpy(longer, &a, sizeof a);
    longer[100] = 1;
    printf("small %d", syscall(SYS_clone3, &a, 63));
    printf(" %s\n", strerrorname_np(errno));
    printf("large %d", syscall(SYS_clone3, &a, 8192));
    printf(" %s\n", strerrorname_np(errno));
    printf("newer %d", syscall(SYS_clone3, longer, 128));
    printf(" %s\n", strerrorname_np(errno));
    printf("nowhere %d", syscall(SYS_clone3, 16, 64));
    printf(" %s\n", strerrorname_np(errno));

    pid_t child = fork();
    if (!child)
        for (;;)
            pause();
    int fd = syscall(SYS_pidfd_open, child, O_NONBLOCK);
    siginfo_t info;
    memset(&info, 0xff, sizeof info);
    printf("not yet %d", waitid(P_PIDFD, fd, &info, WEXITED));
    printf(" %s pid %d\n", strerrorname_np(errno), info.si_pid);
    memset(&info, 0xff, sizeof info);
    printf("not yet %d", waitid(P_PIDFD, fd, &info, WEXITED | WNOHANG));
    printf(" pid %d\n", info.si_pid);
    kill(child, SIGKILL);
    struct pollfd p = {fd, POLLIN};
    poll(&p, 1, -1);
    printf("dead %d", waitid(P_PIDFD, fd, &info, WEXITED));
    printf(" code %d status %d pid %d\n", info.si_code, info.si_status, info.si_pid == child);

    /* The older call takes any number for the exit signal; a number that is no signal is not sent. */
    for (int signal = 60; signal < 256; signal += 60) {
        long made = syscall(SYS_clone, signal, 0, 0, 0, 0);
        if (!made)
            _exit(3);
        int status = 0;
        printf("exit signal %d: %d", signal, made > 0 && waitpid(made, &status, __WALL) == made);
        printf(" %x\n", status);
    }
    return 0;
}
