/* RLIMIT_NPROC counts the tasks of the real user; root has no limit. */
#include "event_show.h"
#include <pthread.h>
#include <sys/resource.h>

static void *nothing(void *unused)
{
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
    SHOW(waitpid(a, NULL, 0) == a);
    SHOW(pthread_create(&thread, NULL, nothing, NULL));
    SHOW(pthread_join(thread, NULL));
    kill(b, SIGKILL);
    SHOW(waitpid(b, NULL, 0) == b);
    return 0;
}
