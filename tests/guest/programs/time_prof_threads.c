/* ITIMER_PROF interrupts the thread that computes, not one that sleeps. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int done, in_busy, elsewhere;
static volatile pid_t busy_tid;

static void on_prof(int signo)
{
    if (syscall(SYS_gettid) == busy_tid)
        in_busy++;
    else
        elsewhere++;
}

static void *busy(void *arg)
{
    busy_tid = syscall(SYS_gettid);
    struct timespec t = {0, 0};
    while (t.tv_sec * 1000 + t.tv_nsec / 1000000 < 400) {
        for (volatile int i = 0; i < 3000000; i++)
            ;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    }
    done = 1;
    return NULL;
}

int main(void)
{
    struct sigaction sa = {.sa_handler = on_prof, .sa_flags = SA_RESTART};
    sigaction(SIGPROF, &sa, NULL);
    struct itimerval it = {{0, 10000}, {0, 10000}};
    setitimer(ITIMER_PROF, &it, NULL);
    pthread_t t;
    pthread_create(&t, NULL, busy, NULL);
    pthread_join(t, NULL);
    printf("in the busy thread %d, mostly there %d\n", in_busy >= 10, in_busy > 8 * elsewhere);
    return 0;
}
