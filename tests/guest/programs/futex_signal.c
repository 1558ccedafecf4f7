/* A waiter that a signal interrupts: EINTR, a restart, and after a stop it waits on. */
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint32_t *word;
static volatile int count;

static void on(int signo)
{
    if (++count == 3) {
        *word = 1;
        syscall(SYS_futex, word, FUTEX_WAKE, 1);
    }
}

static void arm(int flags)
{
    struct sigaction act = {.sa_handler = on, .sa_flags = flags};
    sigaction(SIGALRM, &act, NULL);
    *word = count = 0;
    struct itimerval t = {{0, 20000}, {0, 20000}};
    setitimer(ITIMER_REAL, &t, NULL);
}

static void test(const char *name, int flags, struct timespec *limit)
{
    arm(flags);
    errno = 0;
    long r = syscall(SYS_futex, word, FUTEX_WAIT, 0, limit, NULL, 0);
    int e = errno;
    struct itimerval t = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &t, NULL);
    printf("%s: %ld %d count %d\n", name, r, e, count);
}

int main(void)
{
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct timespec limit = {10, 0};
    test("no restart", 0, NULL);
    test("SA_RESTART", SA_RESTART, NULL);
    test("no restart with limit", 0, &limit);
    test("SA_RESTART with limit", SA_RESTART, &limit);
    /* Stopped and continued, the wait goes on until its time is over. */
    *word = 0;
    pid_t child = fork();
    if (!child) {
        struct timespec t = {0, 150000000};
        errno = 0;
        long r = syscall(SYS_futex, word, FUTEX_WAIT, 0, &t, NULL, 0);
        _exit(r == -1 && errno == ETIMEDOUT ? 0 : errno);
    }
    int status;
    usleep(30000);
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    kill(child, SIGCONT);
    waitpid(child, &status, 0);
    printf("stopped meanwhile: %d\n", WEXITSTATUS(status));
    child = fork();
    if (!child) {
        long r = syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0);
        _exit(r == 0 ? 0 : errno);
    }
    usleep(30000);
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    kill(child, SIGCONT);
    while (!syscall(SYS_futex, word, FUTEX_WAKE, 1))
        usleep(1000);
    waitpid(child, &status, 0);
    printf("woken after a stop: %d\n", WEXITSTATUS(status));
    return 0;
}
