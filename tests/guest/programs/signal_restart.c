/* EINTR and SA_RESTART for a blocking read, waitpid, nanosleep and pause. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int count, writes;
static int fds[2];

static void on(int signo)
{
    if (++count == 2 && writes) /* more may come while the machine stands still */
        write(fds[1], "x", 1);
}

static void arm(int flags)
{
    struct sigaction act = {.sa_handler = on, .sa_flags = flags};
    sigaction(SIGALRM, &act, NULL);
    count = 0;
    writes = flags & SA_RESTART;
    struct itimerval t = {{0, 30000}, {0, 30000}};
    setitimer(ITIMER_REAL, &t, NULL);
}

static void disarm(void)
{
    struct itimerval t = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &t, NULL);
}

int main(void)
{
    char c;
    pipe(fds);
    arm(0);
    int n = read(fds[0], &c, 1);
    printf("read %d errno %d handled %d\n", n, n < 0 ? errno : 0, count > 0);
    disarm();
    arm(SA_RESTART);
    n = read(fds[0], &c, 1);
    printf("restarted read %d handled twice %d\n", n, count > 1);
    disarm();
    arm(SA_RESTART);
    struct pollfd p = {fds[0], POLLIN, 0};
    n = poll(&p, 1, -1);
    printf("poll is never restarted: %d errno %d handled %d\n", n, errno, count > 0);
    disarm();
    arm(SA_RESTART);
    struct timespec t = {10, 0}, left = {0, 0};
    n = nanosleep(&t, &left);
    printf("nanosleep %d errno %d left %d\n", n, errno, left.tv_sec >= 9 && left.tv_sec < 10);
    disarm();
    arm(SA_RESTART);
    n = pause();
    printf("pause %d errno %d\n", n, errno);
    disarm();
    pid_t child = fork();
    if (!child) {
        struct timespec d = {0, 200000000};
        nanosleep(&d, NULL);
        _exit(7);
    }
    arm(0);
    int status = 0;
    n = waitpid(child, &status, 0);
    printf("waitpid %d errno %d\n", n, errno);
    disarm();
    arm(SA_RESTART);
    n = waitpid(child, &status, 0);
    printf("restarted waitpid %d status %d\n", n == child, WEXITSTATUS(status));
    return 0;
}
