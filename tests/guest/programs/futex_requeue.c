/* FUTEX_CMP_REQUEUE: some waiters are woken, the others moved to another word. */
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
    syscall(SYS_futex, &a, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    __sync_fetch_and_add(&returned, 1);
    return NULL;
}

static void wait_for(int n)
{
    while (returned < n)
        usleep(1000);
}

int main(void)
{
    pthread_t t[5];
    for (int i = 0; i < 5; i++)
        pthread_create(&t[i], NULL, waiter, NULL);
    /* Move them to b one by one until all five are there: no thread is woken. */
    int moved = 0;
    while (moved < 5) {
        int n = syscall(SYS_futex, &a, FUTEX_CMP_REQUEUE_PRIVATE, 0, 1L, &b, 0);
        moved += n;
        if (!n)
            usleep(1000);
    }
    printf("moved %d returned %d\n", moved, returned);
    printf("nobody at a %ld\n", syscall(SYS_futex, &a, FUTEX_WAKE_PRIVATE, 10));
    printf("back: %ld\n", syscall(SYS_futex, &b, FUTEX_CMP_REQUEUE_PRIVATE, 1, 2L, &a, 0));
    wait_for(1);
    printf("returned %d\n", returned);
    printf("at b %ld\n", syscall(SYS_futex, &b, FUTEX_WAKE_PRIVATE, 10));
    wait_for(3);
    printf("at a %ld\n", syscall(SYS_futex, &a, FUTEX_REQUEUE_PRIVATE, 1, 10L, &b, 0));
    wait_for(4);
    printf("at b %ld\n", syscall(SYS_futex, &b, FUTEX_WAKE_PRIVATE, 10));
    for (int i = 0; i < 5; i++)
        pthread_join(t[i], NULL);
    printf("returned %d\n", returned);
    return 0;
}
