/* kill of process groups: 0, -pgid; who is hit. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int hit;

static void on(int signo)
{
    hit++;
}

int main(void)
{
    int status;
    pid_t all[3];
    fflush(stdout);
    for (int i = 0; i < 3; i++) {
        all[i] = fork();
        if (!all[i])
            for (;;)
                pause();
        setpgid(all[i], all[0]);
    }
    printf("signal the group %d\n", kill(-all[0], SIGTERM));
    for (int i = 0; i < 3; i++) {
        waitpid(all[i], &status, 0);
        printf("member %d killed by %d\n", i, WTERMSIG(status));
    }
    printf("empty group %d", kill(-all[0], 0));
    printf(" errno %d\n", errno);
    /* kill(0) within a group of its own. */
    pid_t leader = fork();
    if (!leader) {
        setpgid(0, 0);
        signal(SIGUSR1, on);
        pid_t member = fork();
        if (!member)
            for (;;)
                pause();
        /* The member has our handler. */
        signal(SIGTERM, SIG_IGN);
        kill(0, SIGUSR1);
        kill(0, SIGTERM);
        waitpid(member, &status, 0);
        _exit(hit * 10 + (WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM));
    }
    waitpid(leader, &status, 0);
    printf("leader %d\n", WEXITSTATUS(status));
    /* A zombie can be signalled. */
    pid_t zombie = fork();
    if (!zombie)
        _exit(0);
    siginfo_t info;
    waitid(P_PID, zombie, &info, WEXITED | WNOWAIT);
    printf("zombie %d\n", kill(zombie, SIGTERM));
    waitpid(zombie, &status, 0);
    printf("exited %d\n", WIFEXITED(status));
    printf("gone %d", kill(zombie, 0));
    printf(" errno %d\n", errno);
    return 0;
}
