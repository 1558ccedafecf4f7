/* Default actions of every signal, as a parent sees them. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    for (int signo = 1; signo <= 64; signo++) {
        if (signo == 32 || signo == 33)
            continue;
        fflush(stdout);
        pid_t child = fork();
        if (!child) {
            if (signo == SIGSTOP || signo == SIGTSTP || signo == SIGTTIN || signo == SIGTTOU)
                setpgid(0, 0);
            kill(getpid(), signo);
            _exit(0);
        }
        int status = 0;
        waitpid(child, &status, WUNTRACED);
        if (WIFSTOPPED(status)) {
            printf("%d stops %d\n", signo, WSTOPSIG(status));
            kill(child, SIGCONT);
            waitpid(child, &status, 0);
        } else if (WIFSIGNALED(status))
            printf("%d kills %d core %d\n", signo, WTERMSIG(status), !!WCOREDUMP(status));
        else
            printf("%d is ignored %d\n", signo, WEXITSTATUS(status));
    }
    return 0;
}
