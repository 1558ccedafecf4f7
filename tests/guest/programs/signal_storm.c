/* Many signals at once: stops, continues, timers and queued values against threads that compute and sleep; none is lost. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILDREN 3
#define SIGNALS 200

struct state {
    volatile int queued, ticks, ready;
    volatile long sum;
};

static struct state *me;

static void on_rt(int signo, siginfo_t *info, void *context)
{
    __sync_fetch_and_add(&me->sum, (long)info->si_value.sival_int);
    __sync_fetch_and_add(&me->queued, 1); /* last: the parent reads the sum once it has seen all of them */
}

static void on_alarm(int signo)
{
    me->ticks++;
}

static void *spin(void *arg)
{
    volatile double x = 1.0;
    for (;;)
        x = x * 1.0000001 + 0.5;
}

static void *nap(void *arg)
{
    for (;;)
        usleep(300);
}

int main(void)
{
    struct state *all = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        child[i] = fork();
        if (!child[i]) {
            me = &all[i];
            struct sigaction act = {.sa_sigaction = on_rt, .sa_flags = SA_SIGINFO | SA_RESTART};
            sigaction(SIGRTMIN + 3, &act, NULL);
            struct sigaction tick = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
            sigaction(SIGALRM, &tick, NULL);
            struct itimerval t = {{0, 1000}, {0, 1000}};
            setitimer(ITIMER_REAL, &t, NULL);
            pthread_t th;
            if (i != 1)
                pthread_create(&th, NULL, nap, NULL);
            if (i == 2)
                pthread_create(&th, NULL, spin, NULL);
            me->ready = 1;
            if (i == 0)
                for (;;)
                    pause();
            for (;;)
                nap(NULL);
        }
    }
    for (int i = 0; i < CHILDREN; i++)
        while (!all[i].ready)
            usleep(1000);
    int status, stops = 0, conts = 0;
    for (int n = 0; n < SIGNALS; n++) {
        for (int i = 0; i < CHILDREN; i++) {
            union sigval v = {.sival_int = n};
            if (sigqueue(child[i], SIGRTMIN + 3, v))
                printf("sigqueue\n");
        }
        int victim = n % CHILDREN;
        if (n % 4 == 0) {
            kill(child[victim], SIGSTOP);
            if (waitpid(child[victim], &status, WUNTRACED) == child[victim] && WIFSTOPPED(status))
                stops++;
            kill(child[victim], SIGCONT);
            if (waitpid(child[victim], &status, WCONTINUED) == child[victim] && WIFCONTINUED(status))
                conts++;
        }
    }
    for (int i = 0; i < CHILDREN; i++) {
        for (int k = 0; k < 10000 && all[i].queued < SIGNALS; k++)
            usleep(1000);
        printf("child %d: queued %d sum %ld ticks %d\n", i, all[i].queued, all[i].sum, all[i].ticks > 0);
    }
    printf("stops %d continues %d\n", stops, conts);
    for (int i = 0; i < CHILDREN; i++) {
        kill(child[i], SIGTERM);
        waitpid(child[i], &status, 0);
        printf("killed by %d\n", WTERMSIG(status));
    }
    return 0;
}
