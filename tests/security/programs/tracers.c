/* Hostile use of ptrace: random requests, absurd registers, tracers of each other, races of ends and stops. */
#include "hostile.h"
#include <linux/ptrace.h>
#include <sched.h>
#include <sys/uio.h>
#include <sys/user.h>

static const char constant[8192] = "read-only";
static char buffer[65536] __attribute__((aligned(4096)));

static long pt(long request, long pid, long addr, long data)
{
    return raw(SYS_ptrace, request, pid, addr, data, 0, 0);
}

static long odd(void)
{
    switch (rnd() % 12) {
    case 0: return 0;
    case 1: return -1;
    case 2: return rnd() % 70;
    case 3: return (long)buffer + rnd() % 4096;
    case 4: return rnd();
    case 5: return 1L << rnd() % 64;
    case 6: return STUB_BASE + rnd() % STUB_SIZE;
    case 7: return REGION_BASE + rnd() % 0x4000;
    case 8: return MAX_ADDRESS - rnd() % 16;
    case 9: return (long)constant + rnd() % 4096;
    case 10: return VDSO_BASE + rnd() % 0x4000;
    default: return rnd() % 1000;
    }
}

static long request(void)
{
    return rnd() % 3 ? (long)(rnd() % 34) : (long)(0x4200 + rnd() % 18);
}

/* A child in a stop. */
static pid_t stopped(void)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        for (int i = 0; i < 50; i++)
            raw(rnd() % 2 ? SYS_getppid : SYS_sched_yield, 0, 0, 0, 0, 0, 0);
        raw(SYS_exit_group, 0, 0, 0, 0, 0, 0);
    }
    waitpid(pid, &status, __WALL);
    return pid;
}

static void collect(pid_t pid, int turns)
{
    int status;
    while (turns-- && waitpid(pid, &status, __WALL | WNOHANG) == pid && WIFSTOPPED(status))
        pt(PTRACE_CONT, pid, 0, 0);
    kill(pid, SIGKILL);
    do
        pt(PTRACE_CONT, pid, 0, 0); /* out of PTRACE_EVENT_EXIT, should it be there already */
    while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status));
}

static void requests(int rounds)
{
    for (int round = 0; round < rounds; round++) {
        pid_t pid = stopped();
        pid_t others[] = {pid, pid, pid, pid, pid, 1, getpid(), 0, -1, 0x3fffff};
        for (int i = 0; i < 60; i++) {
            int status;
            pt(request(), others[rnd() % 10], odd(), odd());
            waitpid(-1, &status, __WALL | WNOHANG);
        }
        collect(pid, 3);
    }
}

/* Registers that lead nowhere, or into memory that is not the guest's. */
static void registers(int rounds)
{
    for (int round = 0; round < rounds; round++) {
        pid_t pid = stopped();
        for (int i = 0; i < 6; i++) {
            struct user_regs_struct r;
            int status;
            pt(PTRACE_GETREGS, pid, 0, (long)&r);
            long *word = (long *)&r;
            for (int k = 0; k < 4; k++) {
                int at = rnd() % 27;
                if (at != 17 && at != 20 && at < 21)
                    word[at] = at == 15 ? (long)(rnd() % 600) - 50 : odd();
            }
            if (rnd() % 4 == 0)
                r.fs_base = odd();
            if (rnd() % 4 == 0)
                r.eflags = rnd();
            pt(PTRACE_SETREGS, pid, 0, (long)&r);
            if (rnd() % 3 == 0) {
                struct iovec iov = {buffer, sizeof buffer};
                pt(PTRACE_GETREGSET, pid, 0x202, (long)&iov);
                for (int k = 0; k < 4; k++)
                    ((long *)buffer)[rnd() % 120] = odd();
                pt(PTRACE_SETREGSET, pid, 0x202, (long)&iov);
            }
            long how[] = {PTRACE_CONT, PTRACE_SYSCALL, PTRACE_SINGLESTEP, PTRACE_SYSEMU, PTRACE_SYSEMU_SINGLESTEP};
            pt(how[rnd() % 5], pid, 0, rnd() % 4 ? 0 : rnd() % 65);
            for (int k = 0; k < 30 && waitpid(pid, &status, __WALL | WNOHANG) == 0; k++)
                usleep(200);
        }
        collect(pid, 0);
    }
}

/* Each traces another, and one is killed somewhere. */
static void loops(int rounds)
{
    for (int round = 0; round < rounds; round++) {
        pid_t *pids = mmap(NULL, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        enum { N = 4 };
        for (int i = 0; i < N; i++) {
            uint64_t mine = rnd() | 1;
            pid_t pid = fork();
            if (pid)
                pids[i] = pid;
            if (pid == 0) {
                int status;
                seed = mine;
                alarm(2);
                while (!((volatile pid_t *)pids)[N - 1])
                    usleep(100);
                for (int k = 0; k < 20; k++) {
                    pid_t other = pids[rnd() % N];
                    long options = rnd() & 0x3000bf; /* two in each other's PTRACE_EVENT_EXIT would stay there, on Linux too */
                    pt(rnd() % 2 ? PTRACE_SEIZE : PTRACE_ATTACH, other, 0, options);
                    pt(PTRACE_INTERRUPT, other, 0, 0);
                    usleep(rnd() % 500);
                    for (int m = 0; m < 3; m++) {
                        pid_t got = waitpid(-1, &status, __WALL | WNOHANG);
                        if (got > 0 && WIFSTOPPED(status))
                            pt(rnd() % 2 ? PTRACE_CONT : rnd() % 2 ? PTRACE_LISTEN : PTRACE_DETACH, got, 0, 0);
                    }
                    if (rnd() % 30 == 0)
                        kill(pids[rnd() % N], rnd() % 2 ? SIGSTOP : SIGCONT);
                }
                raw(SYS_exit_group, 0, 0, 0, 0, 0, 0);
            }
        }
        usleep(20000);
        for (int i = 0; i < N; i++)
            kill(pids[i], SIGKILL);
        while (waitpid(-1, NULL, __WALL) > 0)
            ;
        munmap(pids, 4096);
    }
}

static void *thread_noise(void *arg)
{
    for (;;) {
        if (rnd() % 50 == 0)
            raw(SYS_exit, 0, 0, 0, 0, 0, 0);
        raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    }
}

/* Tracees with threads, forks and execs, killed at any moment; tracers that die in the middle. */
static void races(int rounds, char *self)
{
    for (int round = 0; round < rounds; round++) {
        pid_t target = fork();
        if (target == 0) {
            alarm(3);
            seed = rnd() | 1;
            pthread_t t;
            for (int i = 0; i < 3; i++)
                pthread_create(&t, NULL, thread_noise, NULL);
            for (int i = 0; i < 10; i++) {
                pid_t pid = rnd() % 2 ? vfork() : fork();
                if (pid == 0)
                    _exit(0);
                if (pid > 0)
                    waitpid(pid, NULL, 0);
            }
            char *args[] = {self, "nothing", "1", NULL};
            if (rnd() % 2)
                execv("/proc/self/exe", args);
            raw(SYS_exit_group, 0, 0, 0, 0, 0, 0);
        }
        pid_t tracer = fork();
        if (tracer == 0) {
            int status;
            alarm(3);
            seed = rnd() | 1;
            pt(rnd() % 2 ? PTRACE_SEIZE : PTRACE_ATTACH, target, 0, 0xff);
            if (rnd() % 2) {
                pt(PTRACE_SETOPTIONS, target, 0, rnd() & 0x1000ff);
                pt(PTRACE_INTERRUPT, target, 0, 0);
            }
            int left = rnd() % 120;
            while (left--) {
                pid_t got = waitpid(-1, &status, __WALL | (rnd() % 4 ? 0 : WNOHANG));
                if (got < 0)
                    break;
                if (!got || !WIFSTOPPED(status))
                    continue;
                if (rnd() % 8 == 0)
                    pt(PTRACE_POKETEXT, got, (long)constant, rnd());
                if (rnd() % 20 == 0)
                    pt(PTRACE_SETOPTIONS, got, 0, rnd() & 0x1000ff);
                if (rnd() % 40 == 0)
                    raw(SYS_kill, target, SIGKILL, 0, 0, 0, 0);
                long how[] = {PTRACE_CONT, PTRACE_SYSCALL, PTRACE_SINGLESTEP, PTRACE_SYSCALL, PTRACE_DETACH};
                pt(how[rnd() % (rnd() % 10 ? 4 : 5)], got, 0, status >> 16 || WSTOPSIG(status) == SIGSTOP ? 0 : WSTOPSIG(status) & 0x7f);
            }
            raw(SYS_exit_group, 0, 0, 0, 0, 0, 0);
        }
        usleep(rnd() % 20000);
        if (rnd() % 2)
            kill(rnd() % 2 ? tracer : target, SIGKILL);
        await(tracer, 4000);
        await(target, 4000);
        rnd();
    }
}

/* Forced writes while the memory below them goes, and by many at once. */
static void memory(int rounds)
{
    for (int round = 0; round < rounds; round++) {
        char *page = mmap(NULL, 1 << 16, 1, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pid_t target = fork();
        if (target == 0) {
            alarm(2);
            seed = rnd() | 1;
            for (;;) {
                raw(SYS_mprotect, (long)page + (rnd() % 16 << 12), 4096, rnd() % 8, 0, 0, 0);
                if (rnd() % 20 == 0)
                    raw(SYS_munmap, (long)page + (rnd() % 16 << 12), 4096, 0, 0, 0, 0);
                if (rnd() % 20 == 0)
                    raw(SYS_mmap, (long)page + (rnd() % 16 << 12), 4096, rnd() % 8, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0);
                raw(SYS_nanosleep, (long)&(struct timespec){0, 1000}, 0, 0, 0, 0, 0);
            }
        }
        pid_t writers[3];
        for (int w = 0; w < 3; w++) {
            writers[w] = fork();
            if (writers[w] == 0) {
                char name[64];
                alarm(3);
                seed = rnd() * (w + 1) | 1;
                sprintf(name, "/proc/%d/mem", target);
                int fd = open(name, O_RDWR);
                if (w == 0)
                    pt(PTRACE_SEIZE, target, 0, 0);
                for (int i = 0; i < 100; i++) {
                    long at = (long)page + rnd() % (1 << 16);
                    if (w == 0 && rnd() % 4 == 0) {
                        pt(PTRACE_INTERRUPT, target, 0, 0);
                        waitpid(target, NULL, __WALL);
                        pt(PTRACE_POKEDATA, target, at, rnd());
                        pt(PTRACE_PEEKDATA, target, at, (long)buffer);
                        pt(PTRACE_CONT, target, 0, 0);
                    } else if (rnd() % 2) {
                        pwrite(fd, buffer, rnd() % 9000, at);
                    } else {
                        pread(fd, buffer, rnd() % 9000, at);
                    }
                }
                raw(SYS_exit_group, 0, 0, 0, 0, 0, 0);
            }
        }
        usleep(rnd() % 60000);
        if (rnd() % 2)
            kill(target, SIGKILL);
        for (int w = 0; w < 3; w++)
            await(writers[w], 4000);
        kill(target, SIGKILL);
        await(target, 1000);
        munmap(page, 1 << 16);
    }
}

int main(int argc, char **argv)
{
    int rounds = atoi(argv[2]);
    hold_sigchld();
    if (argc > 3)
        seed += atol(argv[3]) * 7919;
    switch (argv[1][0]) {
    case 'r':
        if (argv[1][1] == 'a')
            races(rounds, argv[0]);
        else if (argv[1][2] == 'q')
            requests(rounds);
        else
            registers(rounds);
        break;
    case 'l':
        loops(rounds);
        break;
    case 'm':
        memory(rounds);
        break;
    }
    printf("calm\n");
    return 0;
}
