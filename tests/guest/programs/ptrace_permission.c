/* Who may trace whom: user ids, dumpability, capabilities; and CLONE_PTRACE, CLONE_UNTRACED, SETOPTIONS. */
#include "ptrace_common.h"
#include <grp.h>

static int sleeper(int uid, int dumpable)
{
    int ready[2];
    pipe(ready);
    int pid = fork();
    if (!pid) {
        if (uid) {
            setgroups(0, NULL);
            setresgid(uid, uid, uid);
            setresuid(uid, uid, uid);
        }
        if (dumpable >= 0)
            prctl(PR_SET_DUMPABLE, dumpable);
        write(ready[1], "r", 1);
        for (;;)
            pause();
    }
    char c;
    read(ready[0], &c, 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void attempt(const char *what, int pid)
{
    errno = 0;
    long r = pt(PTRACE_SEIZE, pid, 0, 0);
    int error = r < 0 ? errno : 0;
    char name[64];
    sprintf(name, "/proc/%d/mem", pid);
    int fd = open(name, O_RDONLY);
    printf("%s: %ld %d, mem %d\n", what, r, error, fd >= 0 ? 0 : errno);
    if (fd >= 0)
        close(fd);
    if (r == 0) {
        pt(PTRACE_INTERRUPT, pid, 0, 0);
        quiet(pid);
        pt(PTRACE_DETACH, pid, 0, 0);
    }
}

int main(void)
{
    start();
    int pids[] = {sleeper(0, 1), sleeper(0, 0), sleeper(65534, 1), sleeper(65534, 0), sleeper(65533, 1), sleeper(65534, -1)};
    const char *names[] = {"root", "root, not dumpable", "same", "same, not dumpable", "another", "same, after setuid"};
    /* As root only this: whether it has CAP_SYS_PTRACE depends on the container. */
    attempt(names[0], pids[0]);
    fflush(stdout);
    int pid = fork();
    if (!pid) {
        printf("as 65534\n");
        setgroups(0, NULL);
        setresgid(65534, 65534, 65534);
        setresuid(65534, 65534, 65534);
        for (int i = 0; i < 6; i++)
            attempt(names[i], pids[i]);
        T(pt(PTRACE_ATTACH, 1, 0, 0));
        fflush(stdout);
        _exit(0);
    }
    step("end", pid);
    for (int i = 0; i < 6; i++) {
        kill(pids[i], SIGKILL);
        quiet(pids[i]);
    }

    /* Options. */
    pid = fork();
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        int a = syscall(SYS_clone, CLONE_PTRACE | SIGCHLD, 0, 0, 0, 0);
        if (!a)
            _exit(1);
        wait(NULL);
        int b = syscall(SYS_clone, CLONE_UNTRACED | SIGCHLD, 0, 0, 0, 0);
        if (!b)
            _exit(2);
        wait(NULL);
        _exit(3);
    }
    step("stop", pid);
    T(pt(PTRACE_SETOPTIONS, pid, 0, 0x400));
    T(pt(PTRACE_SETOPTIONS, pid, 0, 0x80000000));
    T(pt(PTRACE_SETOPTIONS, pid, 0, -1));
    T(pt(21, pid, 0, PTRACE_O_TRACEFORK));
    T(pt(PTRACE_SETOPTIONS, pid, 0, 0));
    pt(PTRACE_CONT, pid, 0, 0);
    int status, got = waitpid(-1, &status, __WALL);
    printf("the child is traced %d\n", got != pid);
    show("child", status);
    pt(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEFORK);
    pt(PTRACE_CONT, got, 0, 0);
    while ((got = waitpid(-1, &status, __WALL)) > 0) {
        if (!WIFSTOPPED(status))
            show(got == pid ? "parent" : "child", status);
        else if (WSTOPSIG(status) != SIGCHLD)
            show(got == pid ? "parent" : "child", status);
        if (WIFSTOPPED(status))
            pt(PTRACE_CONT, got, 0, WSTOPSIG(status) == SIGCHLD ? SIGCHLD : 0);
    }
    return 0;
}
