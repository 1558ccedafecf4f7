/* Helpers of the ptrace programs. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ptrace.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define T(call) do { errno = 0; long r_ = (long)(call); printf("%s = %ld %d\n", #call, r_, r_ < 0 ? errno : 0); } while (0)

#define PTRACE_PEEKUSER PTRACE_PEEKUSR
#define PTRACE_POKEUSER PTRACE_POKEUSR

static long pt(long request, long pid, long addr, long data)
{
    return syscall(SYS_ptrace, request, pid, addr, data);
}

/* A wait status in words. */
static void show(const char *what, int status)
{
    if (WIFEXITED(status))
        printf("%s: exited %d\n", what, WEXITSTATUS(status));
    else if (WIFSIGNALED(status))
        printf("%s: killed by %d\n", what, WTERMSIG(status));
    else if (WIFCONTINUED(status))
        printf("%s: continued\n", what);
    else
        printf("%s: stopped by %d event %d\n", what, WSTOPSIG(status) & 0xff, status >> 16);
}

/* Wait for one process and show what it did; the status. */
static int step(const char *what, int pid)
{
    int status = 0;
    alarm(20);
    int got = waitpid(pid, &status, __WALL);
    if (got != pid)
        printf("%s: wait gave %d errno %d\n", what, got < 0 ? got : -2, errno);
    else
        show(what, status);
    return status;
}

static int quiet(int pid)
{
    int status = 0;
    alarm(20);
    waitpid(pid, &status, __WALL);
    return status;
}

static void start(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
}

/* State letter of /proc/PID/stat. */
static char state_of(int pid)
{
    char name[64], text[512] = "";
    sprintf(name, "/proc/%d/stat", pid);
    int fd = open(name, O_RDONLY);
    if (fd < 0)
        return '-';
    read(fd, text, sizeof text - 1);
    close(fd);
    char *end = strrchr(text, ')');
    return end ? end[2] : '?';
}

static void until_state(int pid, const char *states)
{
    for (int i = 0; i < 20000 && !strchr(states, state_of(pid)); i++)
        usleep(500);
}
