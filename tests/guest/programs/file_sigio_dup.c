/* si_fd is the descriptor by which O_ASYNC was switched on, even after it was closed or replaced. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static volatile int seen;

static void note(int signo, siginfo_t *info, void *unused) { seen = info->si_fd; }

int main(void) {
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};
    int ends[2];
    char byte;
    pipe(ends);
    sigaction(SIGRTMIN, &action, NULL);
    fcntl(ends[0], F_SETOWN, getpid());
    fcntl(ends[0], F_SETSIG, SIGRTMIN);
    fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK);
    dup2(ends[0], 77);
    write(ends[1], "x", 1);
    printf("first %d\n", seen == ends[0]);
    close(ends[0]);
    seen = -1;
    read(77, &byte, 1);
    write(ends[1], "x", 1);
    printf("closed %d\n", seen == ends[0]);
    fcntl(77, F_SETFL, O_NONBLOCK);
    fcntl(77, F_SETFL, O_ASYNC | O_NONBLOCK);
    read(77, &byte, 1);
    write(ends[1], "x", 1);
    printf("again %d\n", seen);
    dup2(77, 88);
    fcntl(88, F_SETFL, O_ASYNC | O_NONBLOCK);
    read(77, &byte, 1);
    write(ends[1], "x", 1);
    printf("on already %d\n", seen);
    return 0;
}
