/* A thousand attachments, many tracees at once, and stops without end. */
#include "ptrace_common.h"

static volatile int *word;

int main(void)
{
    start();
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status, bad = 0;
    int pid = fork();
    if (!pid)
        for (;;)
            word[0]++;
    while (!word[0])
        usleep(100);
    for (int i = 0; i < 300; i++) {
        alarm(60);
        if (pt(PTRACE_ATTACH, pid, 0, 0))
            bad++;
        waitpid(pid, &status, __WALL);
        if (status != 0x137f)
            bad++;
        if (pt(PTRACE_DETACH, pid, 0, 0))
            bad++;
    }
    printf("running: bad %d\n", bad);
    kill(pid, SIGKILL);
    step("end", pid);
    pid = fork();
    if (!pid)
        for (;;)
            pause();
    for (int i = 0; i < 1000; i++) {
        alarm(60);
        if (pt(PTRACE_SEIZE, pid, 0, 0))
            bad++;
        pt(PTRACE_INTERRUPT, pid, 0, 0);
        waitpid(pid, &status, __WALL);
        if (status >> 8 != (SIGTRAP | PTRACE_EVENT_STOP << 8))
            bad++;
        if (pt(PTRACE_DETACH, pid, 0, 0))
            bad++;
    }
    printf("waiting: bad %d\n", bad);
    kill(pid, SIGKILL);
    step("end", pid);

    enum { N = 20 };
    int pids[N], calls = 0;
    for (int i = 0; i < N; i++) {
        pids[i] = fork();
        if (!pids[i]) {
            pt(PTRACE_TRACEME, 0, 0, 0);
            raise(SIGSTOP);
            for (int k = 0; k < 5; k++)
                syscall(SYS_getppid);
            _exit(i);
        }
    }
    int left = N, sum = 0;
    alarm(60);
    while (left) {
        int got = waitpid(-1, &status, __WALL);
        if (WIFEXITED(status)) {
            sum += WEXITSTATUS(status);
            left--;
            continue;
        }
        struct user_regs_struct r;
        pt(PTRACE_GETREGS, got, 0, (long)&r);
        if (WSTOPSIG(status) == SIGTRAP && r.orig_rax == SYS_getppid)
            calls++;
        pt(PTRACE_SYSCALL, got, 0, 0);
    }
    printf("calls %d sum %d\n", calls, sum);
    return 0;
}
