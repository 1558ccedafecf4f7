/* The C library's synchronisation under contention. */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

#define THREADS 4
#define ROUNDS 2000

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static sem_t items, slots;
static long counter, shared_value, produced, consumed, phases, onces;
static int turn;

static void init(void)
{
    onces++;
}

static void *work(void *arg)
{
    long me = (long)arg;
    pthread_once(&once, init);
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        counter++;
        pthread_mutex_unlock(&mutex);
    }
    for (int i = 0; i < 100; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != me)
            pthread_cond_wait(&cond, &mutex);
        turn = (turn + 1) % THREADS;
        pthread_cond_broadcast(&cond);
        pthread_mutex_unlock(&mutex);
    }
    for (int i = 0; i < 50; i++) {
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
            phases++;
    }
    for (int i = 0; i < 300; i++) {
        if (i % 10 == me) {
            pthread_rwlock_wrlock(&rwlock);
            shared_value++;
            pthread_rwlock_unlock(&rwlock);
        } else {
            pthread_rwlock_rdlock(&rwlock);
            volatile long v = shared_value;
            pthread_rwlock_unlock(&rwlock);
        }
    }
    for (int i = 0; i < 500; i++) {
        if (me & 1) {
            sem_wait(&slots);
            __sync_fetch_and_add(&produced, 1);
            sem_post(&items);
        } else {
            sem_wait(&items);
            __sync_fetch_and_add(&consumed, 1);
            sem_post(&slots);
        }
    }
    return NULL;
}

int main(void)
{
    pthread_t t[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS);
    sem_init(&items, 0, 0);
    sem_init(&slots, 0, 3);
    for (long i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, work, (void *)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    printf("counter %ld phases %ld value %ld produced %ld consumed %ld once %ld\n", counter, phases, shared_value, produced,
           consumed, onces);
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_nsec += 20000000;
    if (limit.tv_nsec >= 1000000000)
        limit.tv_sec++, limit.tv_nsec -= 1000000000;
    pthread_mutex_lock(&mutex);
    printf("timedwait %d\n", pthread_cond_timedwait(&cond, &mutex, &limit));
    printf("timedlock %d\n", pthread_mutex_timedlock(&mutex, &limit));
    printf("trylock %d\n", pthread_mutex_trylock(&mutex));
    sem_init(&items, 0, 0);
    printf("sem_timedwait %d\n", sem_timedwait(&items, &limit));
    return 0;
}
