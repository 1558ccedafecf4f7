/* Priorities of "all processes of a user": those that the caller's pid namespace has a number for. */
#include "event_show.h"
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define IOPRIO_WHO_USER 3
#define BEST_EFFORT(level) (2 << 13 | (level))

static void inner(void)
{
    SHOW(getpid());
    SHOW(setpriority(PRIO_PROCESS, 0, 11));
    SHOW(syscall(SYS_ioprio_set, 1, 0, BEST_EFFORT(6)));
    SHOW(getpriority(PRIO_USER, 0));
    SHOW(syscall(SYS_ioprio_get, IOPRIO_WHO_USER, 0));
    SHOW(setpriority(PRIO_USER, 0, 13));
    SHOW(syscall(SYS_ioprio_set, IOPRIO_WHO_USER, 0, BEST_EFFORT(7)));
    SHOW(getpriority(PRIO_PROCESS, 0));
    SHOW(getpriority(PRIO_PROCESS, 1));
    SHOW(syscall(SYS_ioprio_get, 1, 0));
    SHOW(getpriority(PRIO_PROCESS, 2));
    _exit(0);
}

int main(void)
{
    int status;
    uid_t uid = 500000 + getpid();
    if (setgid(uid) == 0)
        setuid(uid); /* a user with these processes only */
    SHOW(setpriority(PRIO_PROCESS, 0, 3));
    SHOW(syscall(SYS_ioprio_set, 1, 0, BEST_EFFORT(2)));
    SHOW(unshare(CLONE_NEWUSER | CLONE_NEWPID));
    if (fork() == 0)
        inner();
    wait(&status);
    SHOW(status);
    SHOW(getpriority(PRIO_PROCESS, 0));
    SHOW(syscall(SYS_ioprio_get, 1, 0));
    SHOW(getpriority(PRIO_USER, 0));
    return 0;
}
