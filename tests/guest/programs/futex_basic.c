/* FUTEX_WAIT and FUTEX_WAKE in a single thread: values, error numbers, time limits. */
#include <errno.h>
#include <linux/futex.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long futex(void *addr, int op, unsigned val, void *timeout, void *addr2, unsigned val3)
{
    errno = 0;
    return syscall(SYS_futex, addr, op, val, timeout, addr2, val3);
}

#define SHOW(name, call)                                                                                     \
    do {                                                                                                      \
        long r_ = (call);                                                                                     \
        printf("%s: %ld %d\n", name, r_, errno);                                                              \
    } while (0)

int main(void)
{
    static uint32_t word = 5;
    struct timespec ms = {0, 10000000}, zero = {0, 0}, bad = {0, 1000000000}, negative = {-1, 0};
    SHOW("wait other value", futex(&word, FUTEX_WAIT, 4, NULL, NULL, 0));
    SHOW("wait private other value", futex(&word, FUTEX_WAIT_PRIVATE, 4, NULL, NULL, 0));
    SHOW("wait time limit", futex(&word, FUTEX_WAIT, 5, &ms, NULL, 0));
    SHOW("wait private time limit", futex(&word, FUTEX_WAIT_PRIVATE, 5, &ms, NULL, 0));
    SHOW("wait zero", futex(&word, FUTEX_WAIT, 5, &zero, NULL, 0));
    SHOW("wait bad time", futex(&word, FUTEX_WAIT, 5, &bad, NULL, 0));
    SHOW("wait negative time", futex(&word, FUTEX_WAIT, 5, &negative, NULL, 0));
    SHOW("wait bad time pointer", futex(&word, FUTEX_WAIT, 5, (void *)8, NULL, 0));
    SHOW("wait other value and time", futex(&word, FUTEX_WAIT, 4, &ms, NULL, 0));
    SHOW("wake nobody", futex(&word, FUTEX_WAKE, 1, NULL, NULL, 0));
    SHOW("wake private nobody", futex(&word, FUTEX_WAKE_PRIVATE, 100, NULL, NULL, 0));
    SHOW("misaligned wait", futex((char *)&word + 1, FUTEX_WAIT, 5, NULL, NULL, 0));
    SHOW("misaligned wake", futex((char *)&word + 2, FUTEX_WAKE, 5, NULL, NULL, 0));
    SHOW("null wait", futex(NULL, FUTEX_WAIT, 5, NULL, NULL, 0));
    SHOW("null private wait", futex(NULL, FUTEX_WAIT_PRIVATE, 5, NULL, NULL, 0));
    SHOW("null wake", futex(NULL, FUTEX_WAKE, 1, NULL, NULL, 0));
    SHOW("kernel address", futex((void *)0xffff800000000000, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
    SHOW("unknown operation", futex(&word, 99, 0, NULL, NULL, 0));
    SHOW("FUTEX_FD", futex(&word, FUTEX_FD, 0, NULL, NULL, 0));
    SHOW("realtime flag on wait", futex(&word, FUTEX_WAIT | FUTEX_CLOCK_REALTIME, 4, NULL, NULL, 0));
    SHOW("realtime flag on wake", futex(&word, FUTEX_WAKE | FUTEX_CLOCK_REALTIME, 4, NULL, NULL, 0));
    SHOW("bitset 0 wait", futex(&word, FUTEX_WAIT_BITSET, 5, NULL, NULL, 0));
    SHOW("bitset 0 wake", futex(&word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0));
    SHOW("bitset wake", futex(&word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 1));
    uint32_t other = 1;
    SHOW("requeue nobody", futex(&word, FUTEX_REQUEUE, 1, (void *)1, &other, 0));
    SHOW("requeue negative", futex(&word, FUTEX_REQUEUE, -1, (void *)1, &other, 0));
    SHOW("cmp requeue value", futex(&word, FUTEX_CMP_REQUEUE, 1, (void *)1, &other, 6));
    SHOW("cmp requeue", futex(&word, FUTEX_CMP_REQUEUE, 1, (void *)1, &other, 5));
    char *none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SHOW("PROT_NONE", futex(none, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0));
    char *fresh = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SHOW("untouched page", futex(fresh, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0));
    return 0;
}
