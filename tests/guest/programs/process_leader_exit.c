/* A leader that ends before its threads: the last one's exit code is the process's. */
#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void *late(void *arg)
{
    usleep(20000);
    syscall(SYS_exit, 9);
    return NULL;
}

static void *group(void *arg)
{
    usleep(20000);
    _exit(11);
}

int main(void)
{
    void *(*bodies[])(void *) = {late, group};
    for (int i = 0; i < 2; i++) {
        int status, pid = fork();
        if (!pid) {
            pthread_t t;
            pthread_create(&t, NULL, bodies[i], NULL);
            syscall(SYS_exit, 3);
        }
        waitpid(pid, &status, 0);
        printf("%x\n", status);
    }
    return 0;
}
