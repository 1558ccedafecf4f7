/* Threads: creation, join, mutexes, condition variables, thread-local data. */
#include <pthread.h>
#include <stdio.h>
#include <stdint.h>
#include <unistd.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static long counter;
static int turn;
static __thread int local;
static void *work(void *arg)
{
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&lock);
        counter++;
        pthread_mutex_unlock(&lock);
        local++;
    }
    return (void *)(intptr_t)local;
}
static void *pingpong(void *arg)
{
    int me = (int)(intptr_t)arg;
    for (int i = 0; i < 50; i++) {
        pthread_mutex_lock(&lock);
        while (turn != me)
            pthread_cond_wait(&cond, &lock);
        turn = !me;
        pthread_cond_broadcast(&cond);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}
int main(void)
{
    pthread_t threads[8];
    void *result;
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], &result);
        printf("joined %d\n", (int)(intptr_t)result);
    }
    printf("counter %ld\n", counter);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, pingpong, (void *)(intptr_t)i);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    printf("turn %d\n", turn);
    for (int i = 0; i < 100; i++) {
        pthread_create(&threads[0], NULL, pingpong, (void *)0);
        pthread_create(&threads[1], NULL, pingpong, (void *)1);
        pthread_join(threads[0], NULL);
        pthread_join(threads[1], NULL);
        if (i == 3)
            break;
    }
    printf("done %d\n", getpid() == gettid());
    return 0;
}
