/* Threads that wait are woken, as many as asked for. */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint32_t word;
static volatile int returned[8];

static long futex(void *addr, int op, unsigned val)
{
    return syscall(SYS_futex, addr, op, val, NULL, NULL, 0);
}

static void *waiter(void *arg)
{
    returned[(long)arg] = 100 + futex(&word, FUTEX_WAIT_PRIVATE, 0);
    return NULL;
}

int main(void)
{
    pthread_t t[8];
    int woken = 0;
    for (long i = 0; i < 8; i++)
        pthread_create(&t[i], NULL, waiter, (void *)i);
    usleep(50000);
    /* On a slow machine some threads may not wait yet: try again. */
    while (woken < 3) {
        int n = futex(&word, FUTEX_WAKE_PRIVATE, 3 - woken);
        woken += n;
        if (!n)
            usleep(1000);
    }
    printf("first %d\n", woken);
    while (woken < 8) {
        int n = futex(&word, FUTEX_WAKE_PRIVATE, 100);
        woken += n;
        if (!n)
            usleep(1000);
    }
    printf("all %d\n", woken);
    for (int i = 0; i < 8; i++) {
        pthread_join(t[i], NULL);
        printf("%d", returned[i]);
    }
    printf("\nnobody %ld\n", futex(&word, FUTEX_WAKE_PRIVATE, 100));
    return 0;
}
