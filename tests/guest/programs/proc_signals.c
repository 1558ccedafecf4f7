/* Signal masks in /proc/PID/status. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void on(int signo) {}

int main(void) {
    sigset_t set;
    signal(SIGUSR1, on);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_SETMASK, &set, NULL);
    raise(SIGUSR2);
    kill(getpid(), SIGTERM);
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "SigPnd", 6) || !strncmp(line, "ShdPnd", 6) || !strncmp(line, "SigBlk", 6) || !strncmp(line, "SigCgt", 6))
            printf("%s", line);
    return 0;
}
