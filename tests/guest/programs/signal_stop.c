/* Stop and continue: waitpid with WUNTRACED and WCONTINUED, waitid, SIGCHLD's siginfo, SIGKILL of the stopped. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int n, codes[16], statuses[16];

static void on(int signo, siginfo_t *info, void *context)
{
    if (n < 16) {
        codes[n] = info->si_code;
        statuses[n++] = info->si_status;
    }
}

int main(void)
{
    struct sigaction act = {.sa_sigaction = on, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGCHLD, &act, NULL);
    pid_t child = fork();
    if (!child)
        for (;;)
            pause();
    int status;
    printf("nothing yet %d\n", waitpid(child, &status, WUNTRACED | WCONTINUED | WNOHANG));
    kill(child, SIGSTOP);
    pid_t r = waitpid(child, &status, WUNTRACED);
    printf("stopped %d %d %d\n", r == child, WIFSTOPPED(status), WSTOPSIG(status));
    printf("reported once %d\n", waitpid(child, &status, WUNTRACED | WNOHANG));
    kill(child, SIGCONT);
    r = waitpid(child, &status, WCONTINUED);
    printf("continued %d %d %x\n", r == child, WIFCONTINUED(status), status);
    printf("reported once %d\n", waitpid(child, &status, WCONTINUED | WNOHANG));
    siginfo_t info;
    memset(&info, 0, sizeof info);
    kill(child, SIGSTOP);
    int w = waitid(P_PID, child, &info, WSTOPPED | WNOWAIT);
    printf("waitid %d pid %d code %d signo %d\n", w, info.si_pid == child, info.si_code, info.si_signo);
    w = waitid(P_PID, child, &info, WSTOPPED);
    printf("again %d code %d\n", w, info.si_code);
    kill(child, SIGTERM);
    usleep(20000);
    printf("stopped processes keep signals: %d\n", waitpid(child, &status, WNOHANG));
    kill(child, SIGKILL);
    r = waitpid(child, &status, 0);
    printf("killed %d %d\n", r == child, WTERMSIG(status));
    int stops = 0, conts = 0, kills = 0;
    for (int i = 0; i < n; i++) {
        stops += codes[i] == CLD_STOPPED;
        conts += codes[i] == CLD_CONTINUED;
        kills += codes[i] == CLD_KILLED && statuses[i] == SIGKILL;
    }
    printf("stops %d continues %d kills %d\n", stops > 0, conts > 0, kills);
    printf("no child %d", waitpid(-1, &status, 0));
    printf(" errno %d\n", errno);
    return 0;
}
