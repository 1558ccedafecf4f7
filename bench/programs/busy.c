/* busy SECONDS THREADS: threads that do nothing but make system calls, for so long.  Prints the calls in all,
 * "ready" before. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int is_over;

static void *ask(void *count)
{
    long calls = 0;
    while (!is_over) {
        for (int i = 0; i < 50; i++)
            syscall(SYS_getpgid, 0);  /* no process answers it but the kernel */
        calls += 50;
    }
    *(long *)count = calls;
    return NULL;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    int threads = argc > 2 ? atoi(argv[2]) : 1;
    long counts[256] = {0}, total = 0;
    pthread_t ids[256];
    struct timespec pause = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    if (threads < 1 || threads > 256)
        return 2;
    puts("ready");
    fflush(stdout);
    for (int i = 0; i < threads; i++)
        pthread_create(&ids[i], NULL, ask, &counts[i]);
    nanosleep(&pause, NULL);
    is_over = 1;
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        total += counts[i];
    }
    printf("%ld\n", total);
    return 0;
}
