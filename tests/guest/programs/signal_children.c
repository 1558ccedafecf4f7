/* SA_NOCLDSTOP, SA_NOCLDWAIT, an ignored SIGCHLD, and the siginfo of an exit. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int count, code, status_seen, pid_seen;

static void on(int signo, siginfo_t *info, void *context)
{
    count++;
    code = info->si_code;
    status_seen = info->si_status;
    pid_seen = info->si_pid;
}

static pid_t spawn(int how)
{
    pid_t child = fork();
    if (!child) {
        if (how < 0)
            for (;;)
                pause();
        if (how > 100)
            raise(how - 100);
        _exit(how);
    }
    return child;
}

int main(void)
{
    struct sigaction act = {.sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_NOCLDSTOP | SA_RESTART};
    sigaction(SIGCHLD, &act, NULL);
    int status;
    pid_t child = spawn(-1);
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    printf("no signal for a stop: %d\n", count);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    printf("count %d code %d status %d pid %d\n", count, code, status_seen, pid_seen == child);
    child = spawn(42);
    waitpid(child, &status, 0);
    printf("count %d code %d status %d pid %d\n", count, code, status_seen, pid_seen == child);
    child = spawn(100 + SIGTERM);
    waitpid(child, &status, 0);
    printf("count %d code %d status %d\n", count, code, status_seen);
    act.sa_flags = SA_SIGINFO | SA_NOCLDWAIT | SA_RESTART;
    sigaction(SIGCHLD, &act, NULL);
    count = 0;
    child = spawn(1);
    int r = waitpid(child, &status, 0);
    printf("SA_NOCLDWAIT: wait %d errno %d signals %d\n", r, errno, count);
    signal(SIGCHLD, SIG_IGN);
    spawn(1);
    spawn(2);
    r = wait(&status);
    printf("ignored: wait %d errno %d signals %d\n", r, errno, count);
    signal(SIGCHLD, SIG_DFL);
    child = spawn(9);
    r = waitpid(child, &status, 0);
    printf("default: wait %d status %d\n", r == child, WEXITSTATUS(status));
    return 0;
}
