/* ITIMER_REAL and alarm: periods, remaining times, replacement, fork and execve. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int ticks;

static void on(int signo)
{
    ticks++;
}

int main(int argc, char **argv)
{
    struct itimerval t, old;
    if (argc > 1) {
        getitimer(ITIMER_REAL, &t);
        printf("after execve: running %d\n", t.it_value.tv_sec > 50);
        return 0;
    }
    struct sigaction act = {.sa_handler = on};
    sigaction(SIGALRM, &act, NULL);
    t.it_interval.tv_sec = 0, t.it_interval.tv_usec = 5000;
    t.it_value = t.it_interval;
    printf("set %d\n", setitimer(ITIMER_REAL, &t, &old));
    printf("old %ld %ld\n", (long)old.it_value.tv_sec, (long)old.it_value.tv_usec);
    while (ticks < 10)
        pause();
    getitimer(ITIMER_REAL, &t);
    printf("interval %ld value in it %d\n", (long)t.it_interval.tv_usec, t.it_value.tv_usec > 0 && t.it_value.tv_usec <= 5000);
    memset(&t, 0, sizeof t);
    setitimer(ITIMER_REAL, &t, &old);
    printf("old interval %ld\n", (long)old.it_interval.tv_usec);
    getitimer(ITIMER_REAL, &t);
    printf("stopped %ld %ld\n", (long)t.it_value.tv_sec, (long)t.it_value.tv_usec);
    printf("alarm %u\n", alarm(100));
    printf("alarm again %u\n", alarm(50));
    getitimer(ITIMER_REAL, &t);
    printf("alarm is the timer %d\n", t.it_value.tv_sec >= 49 && t.it_value.tv_sec <= 50);
    printf("alarm off %u\n", alarm(0));
    printf("alarm was off %u\n", alarm(0));
    t.it_value.tv_sec = 0, t.it_value.tv_usec = 300000;
    setitimer(ITIMER_REAL, &t, NULL);
    printf("less than a second counts as one: %u\n", alarm(0));
    errno = 0;
    t.it_value.tv_usec = 1000000;
    printf("bad %d", setitimer(ITIMER_REAL, &t, NULL));
    printf(" %d\n", errno);
    printf("which %d", getitimer(3, &t));
    printf(" %d\n", errno);
    printf("set which %d", setitimer(-1, &t, NULL));
    printf(" %d\n", errno);
    printf("fault %ld", syscall(SYS_getitimer, 0, 8));
    printf(" %d\n", errno);
    alarm(60);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        printf("after fork %u\n", alarm(60));
        fflush(stdout);
        execl("/proc/self/exe", argv[0], "x", NULL);
        _exit(1);
    }
    int status;
    waitpid(child, &status, 0);
    ticks = 0;
    sigset_t set, previous;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    sigprocmask(SIG_BLOCK, &set, &previous);
    memset(&t, 0, sizeof t);
    t.it_value.tv_usec = 1000;
    t.it_interval.tv_usec = 1000;
    setitimer(ITIMER_REAL, &t, NULL);
    usleep(30000);
    memset(&t, 0, sizeof t);
    setitimer(ITIMER_REAL, &t, NULL);
    sigprocmask(SIG_SETMASK, &previous, NULL);
    printf("blocked ticks merge: %d\n", ticks);
    signal(SIGALRM, SIG_DFL);
    child = fork();
    if (!child) {
        alarm(1);
        for (;;)
            pause();
    }
    waitpid(child, &status, 0);
    printf("killed by %d\n", WTERMSIG(status));
    return 0;
}
