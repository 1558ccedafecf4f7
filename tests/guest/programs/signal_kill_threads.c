/* A fatal signal to one thread ends the process, wherever the others are; exit_group does too. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static int fds[2];

static void *spin(void *arg)
{
    for (;;)
        ;
}

static void *block(void *arg)
{
    char c;
    read(fds[0], &c, 1);
    return NULL;
}

static void *act(void *arg)
{
    int how = (long)arg;
    if (how == 0)
        pthread_kill(pthread_self(), SIGTERM);
    if (how == 1)
        kill(getpid(), SIGKILL);
    if (how == 2)
        _exit(33);
    if (how == 3)
        *(volatile int *)0 = 1;
    return NULL;
}

int main(void)
{
    pipe(fds);
    for (long how = 0; how < 4; how++) {
        pid_t child = fork();
        if (!child) {
            pthread_t t;
            pthread_create(&t, NULL, spin, NULL);
            pthread_create(&t, NULL, block, NULL);
            pthread_create(&t, NULL, act, (void *)how);
            for (;;)
                pause();
        }
        int status;
        waitpid(child, &status, 0);
        printf("%ld: ", how);
        if (WIFSIGNALED(status))
            printf("killed by %d\n", WTERMSIG(status));
        else
            printf("exited %d\n", WEXITSTATUS(status));
    }
    return 0;
}
