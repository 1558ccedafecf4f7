/* FUTEX_WAKE_OP: every operation and comparison on a word that no other thread uses. */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint32_t a, b;
static volatile int returned;

static void *waiter(void *arg)
{
    syscall(SYS_futex, arg, FUTEX_WAIT_PRIVATE, *(uint32_t *)arg, NULL, NULL, 0);
    __sync_fetch_and_add(&returned, 1);
    return NULL;
}

static long wake_op(unsigned op)
{
    errno = 0;
    return syscall(SYS_futex, &a, FUTEX_WAKE_OP_PRIVATE, 1, 1L, &b, op);
}

int main(void)
{
    unsigned ops[] = {FUTEX_OP(FUTEX_OP_SET, 7, FUTEX_OP_CMP_EQ, 0), FUTEX_OP(FUTEX_OP_ADD, 5, FUTEX_OP_CMP_NE, 0),
                      FUTEX_OP(FUTEX_OP_ADD, -3, FUTEX_OP_CMP_LT, 0), FUTEX_OP(FUTEX_OP_OR, 0x30, FUTEX_OP_CMP_LE, 9),
                      FUTEX_OP(FUTEX_OP_ANDN, 0x9, FUTEX_OP_CMP_GT, 1), FUTEX_OP(FUTEX_OP_XOR, 0xff, FUTEX_OP_CMP_GE, 1),
                      FUTEX_OP(FUTEX_OP_OR | FUTEX_OP_OPARG_SHIFT, 20, FUTEX_OP_CMP_EQ, 1),
                      FUTEX_OP(FUTEX_OP_SET, -1, FUTEX_OP_CMP_EQ, 1)};
    for (unsigned i = 0; i < sizeof ops / sizeof *ops; i++) {
        long r = wake_op(ops[i]);
        printf("%u: %ld %d b %x\n", i, r, errno, b);
    }
    printf("bad op %ld", wake_op(FUTEX_OP(6, 1, FUTEX_OP_CMP_EQ, 0)));
    printf(" %d b %x\n", errno, b);
    printf("bad comparison %ld", wake_op(FUTEX_OP(FUTEX_OP_SET, 1, 9, 0)));
    printf(" %d b %x\n", errno, b);
    for (int both = 0; both < 2; both++) {
        pthread_t t[2];
        b = 0;
        returned = 0;
        pthread_create(&t[0], NULL, waiter, &a);
        pthread_create(&t[1], NULL, waiter, &b);
        usleep(100000);
        long r = wake_op(FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_EQ, both ? 0 : 1));
        printf("both %d woken %ld b %x\n", both, r, b);
        while (returned < 2) {
            syscall(SYS_futex, &a, FUTEX_WAKE_PRIVATE, 1);
            syscall(SYS_futex, &b, FUTEX_WAKE_PRIVATE, 1);
            usleep(1000);
        }
        pthread_join(t[0], NULL);
        pthread_join(t[1], NULL);
    }
    return 0;
}
