/* A process-shared mutex, condition variable and semaphore between four processes. */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    sem_t sem;
    long counter;
    int turn;
};

int main(void)
{
    struct shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_t ma;
    pthread_condattr_t ca;
    pthread_mutexattr_init(&ma);
    pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED);
    pthread_condattr_init(&ca);
    pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&s->mutex, &ma);
    pthread_cond_init(&s->cond, &ca);
    sem_init(&s->sem, 1, 0);
    for (int me = 0; me < 4; me++)
        if (!fork()) {
            for (int i = 0; i < 1000; i++) {
                pthread_mutex_lock(&s->mutex);
                s->counter++;
                pthread_mutex_unlock(&s->mutex);
            }
            for (int i = 0; i < 50; i++) {
                pthread_mutex_lock(&s->mutex);
                while (s->turn != me)
                    pthread_cond_wait(&s->cond, &s->mutex);
                s->turn = (s->turn + 1) % 4;
                pthread_cond_broadcast(&s->cond);
                pthread_mutex_unlock(&s->mutex);
            }
            sem_post(&s->sem);
            _exit(me);
        }
    for (int i = 0; i < 4; i++)
        sem_wait(&s->sem);
    int sum = 0, status;
    while (wait(&status) > 0)
        sum += WEXITSTATUS(status);
    printf("counter %ld turn %d sum %d\n", s->counter, s->turn, sum);
    return 0;
}
