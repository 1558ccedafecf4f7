/* A stop holds every thread of a process, a continue lets them all go on. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile long *counters;

static void *spin(void *arg)
{
    for (;;)
        counters[(long)arg]++;
}

static void *nap(void *arg)
{
    for (;;) {
        usleep(500);
        counters[(long)arg]++;
    }
}

int main(void)
{
    counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (!child) {
        pthread_t t;
        pthread_create(&t, NULL, spin, (void *)0);
        pthread_create(&t, NULL, nap, (void *)1);
        nap((void *)2);
    }
    for (int i = 0; i < 3; i++)
        while (counters[i] < 5)
            usleep(1000);
    int status;
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    printf("stopped %d\n", WIFSTOPPED(status));
    long before[3];
    for (int i = 0; i < 3; i++)
        before[i] = counters[i];
    usleep(30000);
    for (int i = 0; i < 3; i++)
        printf("thread %d still %d\n", i, counters[i] == before[i]);
    kill(child, SIGCONT);
    for (int i = 0; i < 3; i++) {
        while (counters[i] <= before[i])
            usleep(1000);
        printf("thread %d goes on\n", i);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    printf("killed %d\n", WTERMSIG(status));
    return 0;
}
