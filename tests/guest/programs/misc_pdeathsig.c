/* PR_SET_PDEATHSIG: the signal comes when the parent dies; fork clears it. */
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    int ready[2], done[2], value = -1;
    char byte;
    pipe(ready);
    pipe(done);
    if (fork() == 0) {
        if (fork() == 0) {
            sigset_t set;
            prctl(PR_GET_PDEATHSIG, &value);
            sigemptyset(&set);
            sigaddset(&set, SIGUSR1);
            sigprocmask(SIG_BLOCK, &set, NULL);
            prctl(PR_SET_PDEATHSIG, SIGUSR1);
            write(ready[1], "r", 1);
            int signo = sigwaitinfo(&set, NULL);
            char text[64];
            write(done[1], text, snprintf(text, sizeof text, "inherited %d, got %d\n", value, signo == SIGUSR1));
            _exit(0);
        }
        read(ready[0], &byte, 1);
        _exit(0);
    }
    wait(NULL);
    char text[64] = {0};
    read(done[0], text, sizeof text - 1);
    printf("%s", text);
    return 0;
}
