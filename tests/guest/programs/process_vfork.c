/* vfork and posix_spawn: the child runs in the parent's memory. */
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static volatile int shared = 1;

/* A child that computes is killed; with `parent_too` its parent, which waits for it, before. */
static void killed(int parent_too)
{
    int status;
    volatile pid_t *pids = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t parent = fork();
    if (parent == 0) {
        pids[0] = 0;
        pid_t child = vfork();
        if (child == 0) {
            pids[0] = getpid();
            for (;;)
                ;
        }
        waitpid(child, &status, 0);
        printf("the parent has %x\n", status);
        fflush(stdout);
        _exit(3);
    }
    while (!pids[0])
        sched_yield();
    if (parent_too)
        kill(parent, SIGKILL);
    kill(pids[0], SIGKILL);
    waitpid(parent, &status, 0);
    printf("parent %x\n", status);
    if (parent_too) {
        waitpid(pids[0], &status, 0);
        printf("child %x\n", status);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int status;
    if (argc > 1) {
        printf("spawned %s\n", argv[1]);
        return 4;
    }
    pid_t child = vfork();
    if (child == 0) {
        shared = 2;
        _exit(6);
    }
    printf("shared %d\n", shared);
    waitpid(child, &status, 0);
    printf("status %d\n", WEXITSTATUS(status));
    fflush(stdout);
    char *args[] = {"prog", "one", NULL};
    child = vfork();
    if (child == 0) {
        execv("./process_vfork", args);
        _exit(1);
    }
    waitpid(child, &status, 0);
    printf("status %d\n", WEXITSTATUS(status));
    fflush(stdout);
    for (int i = 0; i < 5; i++) {
        char *more[] = {"prog", "two", NULL};
        int error = posix_spawn(&child, "./process_vfork", NULL, NULL, more, environ);
        waitpid(child, &status, 0);
        printf("spawn %d\n", error);
        printf("status %d\n", WEXITSTATUS(status));
        fflush(stdout);
    }
    killed(0);
    killed(1);
    printf("missing %d\n", posix_spawn(&child, "./nothere", NULL, NULL, args, environ));
    return 0;
}
