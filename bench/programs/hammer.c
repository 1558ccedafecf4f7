/* hammer pipes [PAIRS]: eight processes, or two for each pair, which passes 64 bytes to and fro over two pipes.
 * hammer mutex: eight threads that take one mutex in turn.  Prints what must come out. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXCHANGES = 15000, THREADS = 8, TURNS = 250000 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long counter;

static void *turns(void *unused)
{
    for (int i = 0; i < TURNS; i++) {
        pthread_mutex_lock(&lock);
        counter++;
        for (volatile int k = 0; k < 20; k++)
            ;
        pthread_mutex_unlock(&lock);
    }
    return unused;
}

static void bounce(int in, int out, int is_first)
{
    char buffer[64] = "";
    for (int i = 0; i < EXCHANGES; i++) {
        if (is_first && write(out, buffer, sizeof buffer) != sizeof buffer)
            _exit(1);
        if (read(in, buffer, sizeof buffer) != sizeof buffer)
            _exit(1);
        if (!is_first && write(out, buffer, sizeof buffer) != sizeof buffer)
            _exit(1);
    }
    _exit(0);
}

static int pipes(int pairs)
{
    int ok = 0, status;
    for (int i = 0; i < pairs; i++) {
        int to[2], back[2];
        if (pipe(to) || pipe(back))
            return 1;
        if (fork() == 0)
            bounce(back[0], to[1], 1);
        if (fork() == 0)
            bounce(to[0], back[1], 0);
        close(to[0]), close(to[1]), close(back[0]), close(back[1]);
    }
    for (int i = 0; i < 2 * pairs; i++)
        ok += wait(&status) > 0 && status == 0;
    printf("%d processes\n", ok);
    return 0;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    if (argc > 1 && !strcmp(argv[1], "pipes"))
        return pipes(argc > 2 ? atoi(argv[2]) : 4);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, turns, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("%ld turns\n", counter);
    return 0;
}
