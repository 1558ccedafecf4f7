/* sched_setattr(2) and sched_getattr(2): sizes and flags. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t util_min, util_max;
    uint64_t more;
};

static struct attr a;

static void set(const char *what) {
    errno = 0;
    long r = syscall(SYS_sched_setattr, 0, &a, 0);
    printf("%s %ld %d\n", what, r, r < 0 ? errno : 0);
}

static void show(void) {
    struct attr b;
    syscall(SYS_sched_getattr, 0, &b, 56, 0);
    printf("policy %u flags %lu nice %d priority %u\n", b.policy, b.flags, b.nice, b.priority);
}

int main(void) {
    if (geteuid() == 0) setresuid(1000, 1000, 1000);
    a.size = 56;
    a.nice = 7;
    set("nice 7");
    struct attr b;
    memset(&b, 0xff, sizeof b);
    printf("%ld\n", syscall(SYS_sched_getattr, 0, &b, 56, 0));
    printf("size %u policy %u flags %lu nice %d priority %u\n", b.size, b.policy, b.flags, b.nice, b.priority);
    memset(&b, 0xff, sizeof b);
    printf("%ld", syscall(SYS_sched_getattr, 0, &b, 48, 0));
    printf(" size %u, beyond %d\n", b.size, b.util_min == 0xffffffff);
    errno = 0;
    printf("%ld", syscall(SYS_sched_getattr, 0, &b, 40, 0));
    printf(" %d\n", errno);
    errno = 0;
    printf("%ld", syscall(SYS_sched_getattr, 0, &b, 56, 1));
    printf(" %d\n", errno);
    a.size = 0;
    set("size 0");
    a.size = 40;
    set("size 40");
    printf("told %u\n", a.size);
    a.size = 64;
    set("size 64");
    a.more = 1;
    set("size 64, more");
    a.more = 0;
    a.size = 56;
    a.flags = 1ull << 40;
    set("flags");
    a.flags = 0;
    a.policy = 99;
    set("policy");
    a.policy = 6;
    set("deadline without times");
    a.runtime = 10000000, a.deadline = 20000000, a.period = 20000000;
    set("deadline");
    errno = 0;
    printf("%ld", syscall(SYS_sched_setattr, 0, NULL, 0));
    printf(" %d\n", errno);
    memset(&a, 0, sizeof a);
    a.size = 56;
    a.policy = 3, a.nice = 9, a.flags = 0x11;
    set("batch, keep parameters");
    show();
    a.policy = 1, a.flags = 0x8;
    set("keep policy");
    show();
    a.flags = 0x18;
    set("keep all");
    a.policy = 5, a.nice = 3, a.flags = 1;
    set("idle");
    show();
    return 0;
}
