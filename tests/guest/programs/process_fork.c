/* fork, wait status, exit codes, copy-on-write. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>
#include <errno.h>
#include <string.h>
static int global = 1;
int main(void)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        global = 2;
        _exit(7);
    }
    printf("wait %d\n", waitpid(child, &status, 0) == child);
    printf("exited %d code %d global %d\n", WIFEXITED(status), WEXITSTATUS(status), global);
    child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    printf("signaled %d sig %d\n", WIFSIGNALED(status), WTERMSIG(status));
    child = fork();
    if (child == 0)
        abort();
    waitpid(child, &status, 0);
    printf("abort sig %d\n", WTERMSIG(status));
    printf("none %d %s\n", waitpid(-1, &status, 0), strerror(errno));
    child = fork();
    if (child == 0) {
        pid_t grand = fork();
        if (grand == 0)
            _exit(3);
        waitpid(grand, &status, 0);
        _exit(WEXITSTATUS(status) + 1);
    }
    pid_t ended = waitpid(child, &status, WNOHANG);
    printf("nohang %d\n", ended == 0 || ended == child);
    if (ended != child)
        waitpid(child, &status, 0);
    printf("nested %d\n", WEXITSTATUS(status));
    siginfo_t info;
    child = fork();
    if (child == 0)
        _exit(42);
    memset(&info, 0, sizeof info);
    printf("waitid %d\n", waitid(P_PID, child, &info, WEXITED | WNOWAIT));
    printf("code %d status %d pid %d\n", info.si_code == CLD_EXITED, info.si_status, info.si_pid == child);
    printf("again %d\n", waitid(P_ALL, 0, &info, WEXITED));
    printf("echild %d %d\n", waitid(P_ALL, 0, &info, WEXITED), errno == ECHILD);
    return 0;
}
