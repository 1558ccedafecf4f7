/* SCHED_DEADLINE: what sched_setattr(2) takes, and what such a task may not do. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

static struct attr a = {.size = sizeof(struct attr), .policy = 6};

static void set(uint64_t flags, uint64_t runtime, uint64_t deadline, uint64_t period) {
    a.flags = flags, a.runtime = runtime, a.deadline = deadline, a.period = period;
    errno = 0;
    long r = syscall(SYS_sched_setattr, 0, &a, 0);
    printf("%lx %lu %lu %lu: %ld %d\n", flags, runtime, deadline, period, r, errno);
}

static void show(void) {
    struct attr b;
    memset(&b, 0xff, sizeof b);
    syscall(SYS_sched_getattr, 0, &b, sizeof b, 0);
    printf("policy %u flags %lx nice %d priority %u", b.policy, b.flags, b.nice, b.priority);
    if (b.policy == 6) printf(" times %lu %lu %lu", b.runtime, b.deadline, b.period);
    printf(", %x, nice %d, ioprio %lx\n", sched_getscheduler(0), getpriority(PRIO_PROCESS, 0),
           syscall(SYS_ioprio_get, 1, 0));
    char line[512] = "";
    FILE *file = fopen("/proc/self/stat", "r");
    if (file && fgets(line, sizeof line, file)) {
        char *at = strrchr(line, ')') + 2;
        for (int i = 3; i < 18; i++) at = strchr(at, ' ') + 1;
        printf("stat %.*s\n", (int)strcspn(at, " "), at);
    }
    if (file) fclose(file);
}

static void child(void) {
    fflush(stdout);
    errno = 0;
    pid_t pid = fork();
    if (pid == 0) {
        show();
        fflush(stdout);
        _exit(0);
    }
    printf("fork %d %d\n", pid > 0, errno);
    if (pid > 0) waitpid(pid, NULL, 0);
}

int main(void) {
    struct sched_param param = {0};
    struct timespec slice = {9, 9};
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    sched_setscheduler(0, SCHED_OTHER, &param);
    setpriority(PRIO_PROCESS, 0, 0);
    syscall(SYS_ioprio_set, 1, 0, 0);
    errno = 0;
    printf("sched_setscheduler %d", sched_setscheduler(0, 6, &param));
    printf(" %d\n", errno);
    set(0, 0, 0, 0);
    set(0, 1023, 100000, 100000);
    set(0, 1024, 100000, 99999);
    set(0, 1024, 99999, 0);
    set(0, 200000, 100000, 100000);
    set(0, 1024, 5000000000, 5000000000);
    set(0, 1024, 1ull << 63, 0);
    set(0, 42000, 100000, 1000000);
    if (sched_getscheduler(0) != 6) return 0;
    show();
    child();
    sched_rr_get_interval(0, &slice);
    printf("interval %ld %ld\n", slice.tv_sec, slice.tv_nsec);
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1) {
        errno = 0;
        printf("affinity %d", sched_setaffinity(0, sizeof one, &one));
        printf(" %d\n", errno);
    } else printf("affinity -1 16\n");
    errno = 0;
    printf("sched_setparam %d", sched_setparam(0, &param));
    printf(" %d\n", errno);
    set(6, 42000, 200000, 0);
    show();
    set(0x10, 1, 1, 1);
    show();
    set(1, 42000, 100000, 1000000);
    show();
    child();
    a.policy = 0;
    set(0, 0, 0, 0);
    show();
    return 0;
}
