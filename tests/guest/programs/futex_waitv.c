/* futex_waitv, and the calls futex_wake, futex_wait and futex_requeue of Linux 6.7. */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct waitv {
    uint64_t val, uaddr;
    uint32_t flags, reserved;
};

static uint32_t words[4];
static volatile long result = -2;

static long waitv(struct waitv *v, unsigned n, unsigned flags, void *t, int clock)
{
    errno = 0;
    return syscall(449, v, n, flags, t, clock);
}

static void fill(struct waitv *v)
{
    memset(v, 0, 4 * sizeof *v);
    for (int i = 0; i < 4; i++) {
        v[i].uaddr = (uintptr_t)&words[i];
        v[i].flags = 2 | 128;
    }
}

static void *waiter(void *arg)
{
    struct waitv v[4];
    fill(v);
    result = waitv(v, 4, 0, NULL, 0);
    return NULL;
}

static void *waiter2(void *arg)
{
    result = syscall(455, &words[0], 0L, 0xffffffffL, 2 | 128, NULL, 0);
    return NULL;
}

#define SHOW(name, call)                                                                                     \
    do {                                                                                                      \
        errno = 0;                                                                                            \
        long r_ = (call);                                                                                     \
        printf("%s: %ld %d\n", name, r_, errno);                                                              \
    } while (0)

int main(void)
{
    struct waitv v[4];
    struct timespec t;
    pthread_t th;
    fill(v);
    SHOW("flags", waitv(v, 4, 1, NULL, 0));
    SHOW("none", waitv(v, 0, 0, NULL, 0));
    SHOW("many", waitv(v, 129, 0, NULL, 0));
    SHOW("null", waitv(NULL, 1, 0, NULL, 0));
    v[1].val = 1;
    SHOW("other value", waitv(v, 4, 0, NULL, 0));
    fill(v);
    v[2].flags = 0 | 128;
    SHOW("8 bits", waitv(v, 4, 0, NULL, 0));
    fill(v);
    v[2].reserved = 1;
    SHOW("reserved", waitv(v, 4, 0, NULL, 0));
    fill(v);
    clock_gettime(CLOCK_MONOTONIC, &t);
    SHOW("time is over", waitv(v, 4, 0, &t, CLOCK_MONOTONIC));
    SHOW("bad clock", waitv(v, 4, 0, &t, 5));
    for (int i = 0; i < 4; i += 3) {
        result = -2;
        pthread_create(&th, NULL, waiter, NULL);
        while (result == -2) {
            syscall(SYS_futex, &words[i], 129, 1);
            usleep(1000);
        }
        pthread_join(th, NULL);
        printf("woken at %ld\n", result);
    }
    result = -2;
    pthread_create(&th, NULL, waiter2, NULL);
    while (!syscall(454, &words[0], 0xffffffffL, 1, 2 | 128))
        usleep(1000);
    pthread_join(th, NULL);
    printf("futex_wait %ld\n", result);
    SHOW("futex_wake 0", syscall(454, &words[0], 0xffffffffL, 0, 2 | 128));
    SHOW("futex_wake size", syscall(454, &words[0], 0xffffffffL, 1, 3 | 128));
    SHOW("futex_wake mask", syscall(454, &words[0], 0L, 1, 2 | 128));
    SHOW("futex_wait value", syscall(455, &words[0], 1L, 0xffffffffL, 2 | 128, NULL, 0));
    SHOW("futex_wait time", syscall(455, &words[0], 0L, 0xffffffffL, 2 | 128, &t, CLOCK_MONOTONIC));
    fill(v);
    SHOW("futex_requeue", syscall(456, v, 0, 1, 1));
    v[0].val = 1;
    SHOW("futex_requeue value", syscall(456, v, 0, 1, 1));
    return 0;
}
