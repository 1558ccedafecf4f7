/* CPU clocks of threads: a thread that computes is charged, one that sleeps is not. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int stage;
static clockid_t clocks[2];
static pid_t tids[2];
static long usage_ms[2];

static long ms(clockid_t clock)
{
    struct timespec t = {-1, 0};
    if (clock_gettime(clock, &t) < 0)
        return -errno;
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void *busy(void *arg)
{
    tids[0] = syscall(SYS_gettid);
    pthread_getcpuclockid(pthread_self(), &clocks[0]);
    while (ms(CLOCK_THREAD_CPUTIME_ID) < 250)
        for (volatile int i = 0; i < 100000; i++)
            ;
    struct rusage u;
    getrusage(RUSAGE_THREAD, &u);
    usage_ms[0] = (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
    stage++;
    while (stage < 3)
        usleep(5000);
    return NULL;
}

static void *idle(void *arg)
{
    tids[1] = syscall(SYS_gettid);
    pthread_getcpuclockid(pthread_self(), &clocks[1]);
    while (!stage)
        usleep(5000);
    struct rusage u;
    getrusage(RUSAGE_THREAD, &u);
    usage_ms[1] = (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
    stage++;
    while (stage < 3)
        usleep(5000);
    return NULL;
}

static long proc_ms(pid_t tid)
{
    char path[64], text[1024] = "";
    unsigned long user = 0, system = 0;
    sprintf(path, "/proc/self/task/%d/stat", tid);
    FILE *f = fopen(path, "r");
    fread(text, 1, sizeof text - 1, f);
    fclose(f);
    sscanf(strrchr(text, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    return (user + system) * 10;
}

static const char *level(long value) { return value < 0 ? "error" : value < 100 ? "low" : value < 225 ? "middle" : "high"; }

int main(void)
{
    pthread_t t[2];
    long start = ms(CLOCK_PROCESS_CPUTIME_ID);
    pthread_create(&t[0], NULL, busy, NULL);
    pthread_create(&t[1], NULL, idle, NULL);
    while (stage < 2)
        usleep(5000);
    printf("busy: clock %s usage %s\n", level(ms(clocks[0])), level(usage_ms[0]));
    printf("idle: clock %s usage %s\n", level(ms(clocks[1])), level(usage_ms[1]));
    printf("main: clock %s\n", level(ms(CLOCK_THREAD_CPUTIME_ID)));
    printf("process: %s\n", level(ms(CLOCK_PROCESS_CPUTIME_ID) - start));
    printf("proc: busy %s idle %s\n", proc_ms(tids[0]) >= 200 ? "high" : "low", level(proc_ms(tids[1])));
    stage = 3;
    pthread_join(t[0], NULL);
    pthread_join(t[1], NULL);
    printf("gone: %s\n", level(ms(clocks[0])));
    printf("main: clock %s\n", level(ms(CLOCK_THREAD_CPUTIME_ID)));
    printf("process: %s\n", level(ms(CLOCK_PROCESS_CPUTIME_ID) - start));
    long last = 0, backwards = 0;
    for (int i = 0; i < 200; i++) {
        long now = ms(CLOCK_THREAD_CPUTIME_ID);
        backwards += now < last;
        last = now;
    }
    printf("backwards %ld\n", backwards);
    struct timespec zero = {0, 0};
    printf("sleep on own thread's clock: %d\n", clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &zero, NULL));
    return 0;
}
