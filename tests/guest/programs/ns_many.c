/* The init of a pid namespace with very many processes: they have ended and were reaped before it ends. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int pipes[2];

/* Namespaces in it, too, each with some processes. */
static int inside(void *deep)
{
    static char stack[65536];
    prctl(PR_SET_PDEATHSIG, 0);
    for (int i = 0; i < (deep ? 60 : 20); i++)
        if (fork() == 0)
            for (;;)
                pause();
    if (deep)
        for (int i = 0; i < 3; i++)
            if (clone(inside, stack + sizeof stack, CLONE_NEWPID | SIGCHLD, NULL) < 0)
                return 2;
    if (fork() == 0)
        _exit(0); /* a zombie */
    write(pipes[1], "x", 1);
    if (!deep)
        for (;;)
            pause();
    for (int i = 0; i < 3; i++)
        usleep(1000);
    return 7;
}

int main(void)
{
    static char stack[1 << 20];
    int status;
    char c;
    for (int round = 0; round < 3; round++) {
        pipe(pipes);
        pid_t pid = clone(inside, stack + sizeof stack, CLONE_NEWPID | CLONE_NEWUSER | SIGCHLD, (void *)1);
        if (pid < 0) {
            printf("clone: %d\n", errno);
            return 1;
        }
        close(pipes[1]);
        for (int i = 0; i < 4; i++)
            read(pipes[0], &c, 1);
        if (round == 1)
            kill(pid, SIGKILL);
        pid_t got = waitpid(pid, &status, 0);
        /* All that held the pipe are gone: its end comes at once. */
        printf("%d %d %d\n", got == pid, round == 1 || WEXITSTATUS(status) == 7, (int)read(pipes[0], &c, 1));
        close(pipes[0]);
        printf("%d\n", waitpid(-1, &status, WNOHANG) == -1 && errno == ECHILD);
    }
    return 0;
}
