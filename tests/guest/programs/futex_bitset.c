/* FUTEX_WAIT_BITSET and FUTEX_WAKE_BITSET: only waiters whose bits meet are woken. */
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint32_t word;
static volatile int done[4];

static void *waiter(void *arg)
{
    long i = (long)arg;
    syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, 1 << i);
    done[i] = 1;
    return NULL;
}

static int wake(unsigned bits, int want)
{
    int n = 0;
    while (n < want) {
        int r = syscall(SYS_futex, &word, FUTEX_WAKE_BITSET_PRIVATE, want - n, NULL, NULL, bits);
        n += r;
        if (!r)
            usleep(1000);
    }
    return n;
}

int main(void)
{
    pthread_t t[4];
    for (long i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, waiter, (void *)i);
    wake(4, 1);
    pthread_join(t[2], NULL);
    printf("%d%d%d%d\n", done[0], done[1], done[2], done[3]);
    printf("no such bits %ld\n", syscall(SYS_futex, &word, FUTEX_WAKE_BITSET_PRIVATE, 10, NULL, NULL, 0xf0));
    wake(1 | 8, 2);
    pthread_join(t[0], NULL);
    pthread_join(t[3], NULL);
    printf("%d%d%d%d\n", done[0], done[1], done[2], done[3]);
    /* FUTEX_WAKE meets every bitset. */
    while (!done[1]) {
        syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1);
        usleep(1000);
    }
    pthread_join(t[1], NULL);
    printf("%d%d%d%d\n", done[0], done[1], done[2], done[3]);
    return 0;
}
