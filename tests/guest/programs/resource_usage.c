/* getrusage(2) and times(2): time passes, and a reaped child's time is its parent's. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double used(int who) {
    struct rusage u;
    getrusage(who, &u);
    return u.ru_utime.tv_sec + u.ru_utime.tv_usec / 1e6 + u.ru_stime.tv_sec + u.ru_stime.tv_usec / 1e6;
}

static void burn(double seconds) {
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    do {
        for (volatile int i = 0; i < 100000; i++) {}
        clock_gettime(CLOCK_MONOTONIC, &b);
    } while (b.tv_sec - a.tv_sec + (b.tv_nsec - a.tv_nsec) / 1e9 < seconds);
}

int main(void) {
    double before = used(RUSAGE_SELF);
    burn(0.25);
    printf("self %d\n", used(RUSAGE_SELF) > before);
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    printf("maxrss %d\n", u.ru_maxrss > 0);
    before = used(RUSAGE_CHILDREN);
    int pid = fork();
    if (pid == 0) {
        burn(0.25);
        _exit(0);
    }
    memset(&u, 0, sizeof u);
    printf("wait4 %d", wait4(pid, NULL, 0, &u) == pid);
    printf(" %d\n", u.ru_utime.tv_sec + u.ru_utime.tv_usec + u.ru_stime.tv_usec > 0);
    printf("children %d\n", used(RUSAGE_CHILDREN) > before);
    printf("thread %d\n", used(RUSAGE_THREAD) > 0);
    struct tms t;
    printf("times %d %d\n", times(&t) != (clock_t)-1, t.tms_utime + t.tms_stime > 0);
    errno = 0;
    printf("%ld", syscall(SYS_getrusage, 2, &u));
    printf(" %d\n", errno);
    return 0;
}
