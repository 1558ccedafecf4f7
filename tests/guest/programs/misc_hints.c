/* Settings without a visible effect: they are stored, inherited, and refused where Linux refuses. */
#include "ptrace_common.h"
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <time.h>

#define THP_SET 41
#define THP_GET 42

static long p(int option, long a, long b, long c, long d)
{
    return syscall(SYS_prctl, option, a, b, c, d);
}

static void thp_line(void)
{
    char line[200];
    FILE *f = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "THP_enabled", 11))
            printf("%s", line);
    fclose(f);
}

int main(int argc, char **argv)
{
    start();
    if (argc > 1) {
        printf("after execve %ld %ld\n", p(THP_GET, 0, 0, 0, 0), p(PR_MCE_KILL_GET, 0, 0, 0, 0));
        thp_line();
        return 0;
    }
    T(p(THP_SET, 1, 1, 0, 0));
    T(p(THP_GET, 1, 0, 0, 0));
    T(p(THP_GET, 0, 0, 0, 0));
    thp_line();
    T(p(THP_SET, 1, 0, 0, 0));
    T(p(THP_GET, 0, 0, 0, 0));
    T(p(PR_MCE_KILL_GET, 0, 0, 0, 0));
    T(p(PR_MCE_KILL_GET, 1, 0, 0, 0));
    T(p(PR_MCE_KILL, PR_MCE_KILL_SET, 3, 0, 0));
    T(p(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 1, 0));
    T(p(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0));
    T(p(PR_MCE_KILL_GET, 0, 0, 0, 0));
    T(p(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 1, 0, 0));
    T(p(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 0, 0, 0));
    T(p(PR_MCE_KILL_GET, 0, 0, 0, 0));
    T(p(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
    T(p(PR_MCE_KILL, 2, 0, 0, 0));
    if (!fork()) {
        printf("child %ld %ld\n", p(THP_GET, 0, 0, 0, 0), p(PR_MCE_KILL_GET, 0, 0, 0, 0));
        execl("/proc/self/exe", "hints", "x", NULL);
    }
    wait(NULL);
    T(p(THP_SET, 0, 0, 0, 0));
    thp_line();

    struct { unsigned busy_us; unsigned short budget; unsigned char prefers, padding; } e = {7, 7, 7, 7};
    int fd = epoll_create1(0);
    T(ioctl(fd, _IOR(0x8A, 2, e), &e));
    printf("%u %u %u %u\n", e.busy_us, e.budget, e.prefers, e.padding);
    e.busy_us = 100, e.budget = 8, e.prefers = 1;
    T(ioctl(fd, _IOW(0x8A, 1, e), &e));
    e.padding = 1;
    T(ioctl(fd, _IOW(0x8A, 1, e), &e));
    e.padding = 0, e.prefers = 2;
    T(ioctl(fd, _IOW(0x8A, 1, e), &e));
    e.prefers = 0, e.busy_us = 1u << 31;
    T(ioctl(fd, _IOW(0x8A, 1, e), &e));
    T(ioctl(fd, _IOR(0x8A, 2, e), &e));
    printf("%u %u %u %u\n", e.busy_us, e.budget, e.prefers, e.padding);
    T(ioctl(fd, 12345, 0));
    T(ioctl(fd, _IOR(0x8A, 2, e), 8));

    struct timespec t = {1, 0};
    T(clock_settime(CLOCK_PROCESS_CPUTIME_ID, &t));
    T(clock_settime(CLOCK_THREAD_CPUTIME_ID, &t));
    clockid_t own;
    clock_getcpuclockid(getpid(), &own);
    T(clock_settime(own == CLOCK_PROCESS_CPUTIME_ID ? -6 : own, &t));
    T(clock_settime(CLOCK_MONOTONIC, &t));
    return 0;
}
