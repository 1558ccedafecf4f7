/* A leader that ends before its threads: the last one's exit code is the process's. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Until the leader is a zombie: who ends last gives the status. */
static void await_leader(void)
{
    char path[64], text[512];
    ssize_t size;
    snprintf(path, sizeof path, "/proc/%d/task/%d/stat", getpid(), getpid());
    do {
        int fd = open(path, O_RDONLY);
        size = read(fd, text, sizeof text - 1);
        text[size > 0 ? size : 0] = 0;
        close(fd);
    } while (size > 0 && !strstr(text, ") Z"));
}

static void *late(void *arg)
{
    await_leader();
    syscall(SYS_exit, 9);
    return arg;
}

static void *group(void *arg)
{
    await_leader();
    _exit(11);
    return arg;
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
