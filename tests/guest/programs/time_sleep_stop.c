/* A sleep that is stopped and continued goes on (restart_syscall), and lasts as long as it should. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(void)
{
    int status;
    long long start = now();
    pid_t child = fork();
    if (!child) {
        struct timespec t = {0, 200000000};
        long long before = now();
        int r = nanosleep(&t, NULL);
        _exit(r == 0 && now() - before >= 200000000 ? 0 : 1);
    }
    for (int i = 0; i < 3; i++) {
        usleep(20000);
        kill(child, SIGSTOP);
        waitpid(child, &status, WUNTRACED);
        kill(child, SIGCONT);
    }
    waitpid(child, &status, 0);
    printf("child %d not too long %d\n", status, now() - start < 3000000000LL);
    /* Stopped beyond its end: it ends at once when it is continued. */
    child = fork();
    if (!child) {
        struct timespec t = {0, 50000000};
        _exit(nanosleep(&t, NULL) ? errno : 0);
    }
    usleep(10000);
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    usleep(80000);
    printf("still stopped %d\n", waitpid(child, &status, WNOHANG));
    kill(child, SIGCONT);
    waitpid(child, &status, 0);
    printf("child %d\n", status);
    return 0;
}
