/* PR_SET_PDEATHSIG. */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int fds[2];

static void on(int signo)
{
    write(fds[1], "D", 1);
    _exit(0);
}

int main(void)
{
    int ready[2], status;
    char c = 0;
    pipe(fds);
    pipe(ready);
    pid_t parent = fork();
    if (!parent) {
        if (!fork()) {
            signal(SIGUSR2, on);
            prctl(PR_SET_PDEATHSIG, SIGUSR2);
            write(ready[1], "r", 1);
            for (;;)
                pause();
        }
        read(ready[0], &c, 1);
        _exit(5);
    }
    waitpid(parent, &status, 0);
    printf("parent %d\n", WEXITSTATUS(status));
    close(fds[1]);
    printf("read %zd\n", read(fds[0], &c, 1));
    printf("got %c\n", c);
    return 0;
}
