/* Helpers of the hostile programs: raw calls, random values, children that may die. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* platform/layout.py; test_guests.py checks that they agree. */
#define STUB_BASE 0x7fff00000000ULL
#define STUB_SIZE 0x10000ULL
#define INFO_BASE 0x7fff00100000ULL
#define VDSO_BASE 0x7fff00200000ULL
#define REGION_BASE 0x7fff10000000ULL
#define SLOT_SIZE 0x20000ULL
#define MAX_ADDRESS 0x7ffe00000000ULL
#define CALL_ENTRY_OFFSET 0x200
#define BELL_ARG0 0x636c6f63686562ULL
#define BELL_ARG1 0x656c6cULL

static uint64_t seed = 88172645463325252ULL;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static long raw(long nr, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return result;
}

/* The wait status of a child, which is killed when it takes longer than `ms`. */
static int await(pid_t pid, int ms)
{
    sigset_t set;
    struct timespec limit = {ms / 1000, ms % 1000 * 1000000L};
    int status = 0;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    for (;;) {
        pid_t got = waitpid(pid, &status, WNOHANG | __WALL);
        if (got == pid)
            return status;
        if (sigtimedwait(&set, NULL, &limit) < 0 && errno == EAGAIN) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, __WALL);
            return status;
        }
    }
}

static void hold_sigchld(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

/* A child that waits to be killed; -1 if there can be none. */
static inline pid_t sleeper(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    return pid;
}
