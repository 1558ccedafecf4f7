/* A parent that is killed while its vfork child runs on: the child lives to its end. */
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int fds[2], started[2];

int main(void)
{
    int status;
    char c = '?';
    pipe(fds);
    pipe(started);
    for (int how = 0; how < 3; how++) {
        pid_t parent = fork();
        if (!parent) {
            if (how == 2)
                signal(SIGTERM, SIG_IGN);
            if (!vfork()) {
                struct timespec t = {0, 100000000};
                write(started[1], "s", 1);
                nanosleep(&t, NULL);
                write(fds[1], "c", 1);
                _exit(0);
            }
            write(fds[1], "p", 1);
            _exit(5);
        }
        read(started[0], &c, 1);
        kill(parent, how == 0 ? SIGKILL : SIGTERM);
        waitpid(parent, &status, 0);
        if (WIFSIGNALED(status))
            printf("parent killed by %d\n", WTERMSIG(status));
        else
            printf("parent exited %d\n", WEXITSTATUS(status));
        read(fds[0], &c, 1);
        printf("child said %c\n", c);
        if (how == 2) {
            read(fds[0], &c, 1);
            printf("parent said %c\n", c);
        }
    }
    return 0;
}
