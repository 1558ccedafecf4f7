/* Signals and threads: directed ones, a dedicated waiter, per-thread masks, delivery to a thread that does not block
 * it. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_barrier_t barrier;
static volatile int hits[4], main_hits;
static __thread int me = -1;
static volatile int stop;

static void on(int signo)
{
    if (me >= 0)
        hits[me]++;
    else
        main_hits++;
}

static void *worker(void *arg)
{
    me = (long)arg;
    pthread_barrier_wait(&barrier);
    while (!stop)
        usleep(1000);
    return NULL;
}

static void *waiter(void *arg)
{
    sigset_t *set = arg;
    long sum = 0;
    for (int i = 0; i < 5; i++) {
        siginfo_t info;
        sigwaitinfo(set, &info);
        sum = sum * 10 + info.si_value.sival_int;
    }
    return (void *)sum;
}

static void wait_for(volatile int *what, int value)
{
    for (int i = 0; i < 5000 && *what != value; i++)
        usleep(1000);
}

int main(void)
{
    pthread_t t[4];
    struct sigaction act = {.sa_handler = on, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &act, NULL);
    pthread_barrier_init(&barrier, NULL, 5);
    for (long i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, worker, (void *)i);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 4; i++)
        for (int k = 0; k <= i; k++) {
            pthread_kill(t[i], SIGUSR1);
            wait_for(&hits[i], k + 1);
        }
    printf("directed %d %d %d %d main %d\n", hits[0], hits[1], hits[2], hits[3], main_hits);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    int before = hits[0] + hits[1] + hits[2] + hits[3];
    kill(getpid(), SIGUSR1);
    for (int i = 0; i < 5000 && hits[0] + hits[1] + hits[2] + hits[3] == before; i++)
        usleep(1000);
    printf("to a thread that can take it: %d main %d\n", hits[0] + hits[1] + hits[2] + hits[3] - before, main_hits);
    stop = 1;
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    sigset_t rt;
    sigemptyset(&rt);
    sigaddset(&rt, SIGRTMIN);
    pthread_sigmask(SIG_BLOCK, &rt, NULL);
    pthread_create(&t[0], NULL, waiter, &rt);
    for (int i = 1; i <= 5; i++) {
        union sigval v = {.sival_int = i};
        sigqueue(getpid(), SIGRTMIN, v);
    }
    void *sum;
    pthread_join(t[0], &sum);
    printf("waiter %ld\n", (long)sum);
    printf("kill 0 of a live thread %d\n", pthread_kill(pthread_self(), 0));
    return 0;
}
