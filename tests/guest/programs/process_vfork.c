/* vfork and posix_spawn: the child runs in the parent's memory. */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static volatile int shared = 1;
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
    printf("missing %d\n", posix_spawn(&child, "./nothere", NULL, NULL, args, environ));
    return 0;
}
