/* sched_setaffinity(2), sched_getaffinity(2). */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long raw_get(size_t size, void *mask) { errno = 0; return syscall(SYS_sched_getaffinity, 0, size, mask); }
static long raw_set(int pid, size_t size, void *mask) { errno = 0; return syscall(SYS_sched_setaffinity, pid, size, mask); }

int main(void) {
    unsigned long mask[128] = {0};
    long size = raw_get(sizeof mask, mask);
    printf("multiple of 8: %d, first %lu\n", size > 0 && size % 8 == 0, mask[0] & 1);
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    printf("%d\n", CPU_COUNT(&set) == sysconf(_SC_NPROCESSORS_ONLN));
    printf("short %ld", raw_get(0, mask));
    printf(" %d\n", errno);
    printf("odd %ld", raw_get(9, mask));
    printf(" %d\n", errno);
    mask[0] = 1;
    printf("set %ld\n", raw_set(0, 8, mask));
    mask[0] = 0;
    raw_get(128, mask);
    printf("now %lu\n", mask[0]);
    setvbuf(stdout, NULL, _IONBF, 0);
    if (fork() == 0) {
        sched_getaffinity(0, sizeof set, &set);
        printf("child %d\n", CPU_COUNT(&set));
        _exit(0);
    }
    wait(NULL);
    mask[0] = 0;
    printf("empty %ld", raw_set(0, 8, mask));
    printf(" %d\n", errno);
    printf("nobody %ld", raw_set(0x3fffff0, 8, mask));
    printf(" %d\n", errno);
    printf("fault %ld", raw_set(0, 8, (void *)8));
    printf(" %d\n", errno);
    unsigned cpu = 99, node = 99;
    printf("getcpu %ld", syscall(SYS_getcpu, &cpu, &node, NULL));
    printf(" %u %u\n", cpu, node);
    printf("yield %d\n", sched_yield());
    return 0;
}
