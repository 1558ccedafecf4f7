/* RLIMIT_NPROC counts the tasks of the real user until they are reaped, a leader until its process is; root has no limit. */
#include "event_show.h"
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static void *nothing(void *unused)
{
    return unused;
}

static int pair[2];

/* Says that the leader of its process has ended, and stays. */
static void *outlive(void *unused)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
    do {
        int fd = open(path, O_RDONLY);
        ssize_t got = read(fd, text, sizeof text - 1);
        text[got > 0 ? got : 0] = 0;
        close(fd);
    } while (!strstr(text, ") Z "));
    write(pair[1], "x", 1);
    pause();
    return unused;
}

static int try_fork(void)
{
    pid_t c = fork();
    if (c == 0)
        pause();
    return c;
}

int main(void)
{
    struct rlimit none = {0, 3};
    SHOW(setrlimit(RLIMIT_NPROC, &none));
    pid_t c = fork();
    if (!c)
        _exit(3);
    int status = -1;
    SHOW(waitpid(c, &status, 0) == c);
    printf("%x\n", status);
    struct rlimit three = {3, 3};
    setrlimit(RLIMIT_NPROC, &three);
    SHOW(setresgid(47123, 47123, 47123));
    SHOW(setresuid(47123, 47123, 47123));
    pid_t a = try_fork();
    printf("first %d\n", a > 0);
    pid_t b = try_fork();
    printf("second %d\n", b > 0);
    SHOW(try_fork());
    pthread_t thread;
    SHOW(pthread_create(&thread, NULL, nothing, NULL) == EAGAIN);
    kill(a, SIGKILL);
    siginfo_t info;
    SHOW(waitid(P_PID, a, &info, WEXITED | WNOWAIT));
    SHOW(pthread_create(&thread, NULL, nothing, NULL) == EAGAIN); /* it is a zombie */
    SHOW(waitpid(a, NULL, 0) == a);
    SHOW(pthread_create(&thread, NULL, nothing, NULL));
    SHOW(pthread_join(thread, NULL));
    kill(b, SIGKILL);
    SHOW(waitpid(b, NULL, 0) == b);
    SHOW(pipe(pair));
    a = fork();
    if (a == 0) {
        while (pthread_create(&thread, NULL, outlive, NULL))
            ; /* the thread that was joined may still count */
        syscall(SYS_exit, 0);
    }
    char byte;
    SHOW(read(pair[0], &byte, 1));
    printf("third %d\n", (b = try_fork()) > 0);
    if (b > 0)
        kill(b, SIGKILL);
    kill(a, SIGKILL);
    SHOW(waitpid(a, NULL, 0) == a);
    return 0;
}
