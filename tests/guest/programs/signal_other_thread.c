/* A signal to the process that its first thread takes must not show in the calls of the thread that sent it. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int taken, ends, odd, done;
static pthread_t sender;

static void first(int signo)
{
    taken++;
}

static void second(int signo)
{
    ends++;
}

static void look(int result)
{
    if (result < 0 && errno != EINTR)
        odd = errno;
}

static void *send(void *arg)
{
    fd_set none;
    FD_ZERO(&none);
    for (int i = 0; i < 300; i++) {
        kill(getpid(), SIGUSR1);
        look(pause());
        kill(getpid(), SIGUSR1);
        look(poll(NULL, 0, 1));
        struct timespec t = {0, 100000};
        kill(getpid(), SIGUSR1);
        look(ppoll(NULL, 0, &t, NULL));
        struct timeval v = {0, 100};
        kill(getpid(), SIGUSR1);
        look(select(0, &none, NULL, NULL, &v));
    }
    done = 1;
    return NULL;
}

int main(void)
{
    struct sigaction action = {.sa_handler = first, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    action.sa_handler = second;
    sigaction(SIGUSR2, &action, NULL);
    alarm(50);
    pthread_create(&sender, NULL, send, NULL);
    while (!done) {
        for (volatile int i = 0; i < 300000; i++)
            ;
        if (!done)
            pthread_kill(sender, SIGUSR2);
    }
    pthread_join(sender, NULL);
    printf("odd %d, taken %d, ends %d\n", odd, taken > 0, ends > 0);
    return 0;
}
