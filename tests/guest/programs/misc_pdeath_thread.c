/* PR_SET_PDEATHSIG comes with the end of the thread that forked, also where its process lives on. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t child;

static void *forks(void *is_other) {
    int ready[2];
    char byte;
    pipe(ready);
    child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        write(ready[1], "x", 1);
        for (;;)
            pause();
    }
    read(ready[0], &byte, 1);
    return NULL;
}

static void *does_nothing(void *unused) { return NULL; }

int main(void) {
    pthread_t thread;
    int status = 0;
    pthread_create(&thread, NULL, forks, NULL);
    pthread_join(thread, NULL);
    waitpid(child, &status, 0);
    printf("by the thread that forked: %x\n", status);
    forks(NULL);
    pthread_create(&thread, NULL, does_nothing, NULL);
    pthread_join(thread, NULL);
    usleep(1000);
    printf("by another thread: %d\n", (int)waitpid(child, &status, WNOHANG));
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    /* PR_SET_TIMERSLACK: a child's default is the value of the thread that made it. */
    prctl(PR_SET_TIMERSLACK, 12345);
    if (fork() == 0) {
        prctl(PR_SET_TIMERSLACK, 777);
        printf("slack %d", (int)prctl(PR_GET_TIMERSLACK));
        prctl(PR_SET_TIMERSLACK, 0);
        printf(" then %d\n", (int)prctl(PR_GET_TIMERSLACK));
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    prctl(PR_SET_TIMERSLACK, 0);
    printf("own %d\n", (int)prctl(PR_GET_TIMERSLACK));
    return 0;
}
