/* Absolute time limits on both clocks. */
#include <errno.h>
#include <linux/futex.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint32_t word;

static long long now(clockid_t c)
{
    struct timespec t;
    clock_gettime(c, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void test(const char *name, clockid_t clock, int flag, long long delta)
{
    long long at = now(clock) + delta, before = now(CLOCK_MONOTONIC);
    struct timespec t = {at / 1000000000, at % 1000000000};
    errno = 0;
    long r = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE | flag, 0, &t, NULL, FUTEX_BITSET_MATCH_ANY);
    long long took = now(CLOCK_MONOTONIC) - before;
    printf("%s: %ld %d long enough %d not too long %d\n", name, r, errno, took >= (delta > 0 ? delta - 1000000 : 0),
           took < (delta > 0 ? delta : 0) + 60000000000LL);
}

int main(void)
{
    test("monotonic", CLOCK_MONOTONIC, 0, 30000000);
    test("realtime", CLOCK_REALTIME, FUTEX_CLOCK_REALTIME, 30000000);
    test("monotonic past", CLOCK_MONOTONIC, 0, -30000000);
    test("realtime past", CLOCK_REALTIME, FUTEX_CLOCK_REALTIME, -30000000);
    struct timespec zero = {0, 0};
    errno = 0;
    long r = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &zero, NULL, ~0U);
    printf("zero: %ld %d\n", r, errno);
    return 0;
}
