/* Threads that map, protect and unmap at the same time, forks beside them, and threads that end at once. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_int signals;

static void on_signal(int signo)
{
    signals++;
}

static void *work(void *arg)
{
    long id = (long)arg;
    unsigned seed = id;
    for (int i = 0; i < 200; i++) {
        size_t length = 4096 * (1 + rand_r(&seed) % 64);
        char *p = mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            exit(1);
        memset(p, id, length);
        for (size_t k = 0; k < length; k += 4096)
            if (p[k] != (char)id)
                exit(2);
        if (i % 3 == 0)
            mprotect(p, length, PROT_READ);
        munmap(p, length);
        char *q = malloc(200000);
        memset(q, 1, 200000);
        free(q);
    }
    return 0;
}

static void *nothing(void *arg)
{
    return arg;
}

int main(void)
{
    signal(SIGUSR1, on_signal);
    pthread_t threads[8], one;
    for (long i = 0; i < 8; i++)
        pthread_create(&threads[i], 0, work, (void *)(i + 1));
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();
        if (!pid) {
            char *m = malloc(1000000);
            memset(m, 2, 1000000);
            kill(getppid(), SIGUSR1);
            _exit(i);
        }
        int status;
        while (waitpid(pid, &status, 0) < 0)
            ;
        if (WEXITSTATUS(status) != i)
            return 3;
    }
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], 0);
    for (int i = 0; i < 300; i++) {
        if (pthread_create(&one, 0, nothing, 0))
            return 4;
        pthread_join(one, 0);
    }
    printf("ok %d\n", signals > 0);
    return 0;
}
