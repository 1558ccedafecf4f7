/* pidfd_open, polling for an exit, signals, waitid(P_PIDFD), CLONE_PIDFD, pidfd_getfd. */
#include "event_show.h"
#include <sched.h>
#include <sys/syscall.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

int main(void)
{
    int p[2];
    pipe(p);
    SHOW(syscall(SYS_pidfd_open, 0, 0));
    SHOW(syscall(SYS_pidfd_open, -5, 0));
    SHOW(syscall(SYS_pidfd_open, 4000000, 0));
    SHOW(syscall(SYS_pidfd_open, getpid(), 7));
    pid_t c = fork();
    if (!c) {
        char b;
        read(p[0], &b, 1);
        _exit(5);
    }
    int fd = syscall(SYS_pidfd_open, c, 0);
    SHOW(fcntl(fd, F_GETFD));
    show_poll("running", fd, POLLIN);
    SHOW(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
    SHOW(syscall(SYS_pidfd_send_signal, fd, 999, NULL, 0));
    SHOW(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 1 << 10));
    SHOW(syscall(SYS_pidfd_send_signal, p[0], 0, NULL, 0));
    siginfo_t info = {0};
    SHOW(waitid(P_PIDFD, fd, &info, WEXITED | WNOHANG));
    write(p[1], "x", 1);
    struct pollfd q = {fd, POLLIN};
    SHOW(poll(&q, 1, 5000));
    printf("%s\n", bits(q.revents));
    SHOW(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0));
    SHOW(waitid(P_PIDFD, fd, &info, WEXITED));
    printf("status %d mine %d\n", info.si_status, info.si_pid == c);
    SHOW(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0));
    SHOW(waitid(P_PIDFD, fd, &info, WEXITED));
    char b[8];
    SHOW(read(fd, b, 8));
    close(fd);
    SHOW(waitid(P_PIDFD, p[0], &info, WEXITED));

    int pidfd = -1;
    c = syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, NULL, &pidfd, NULL, NULL);
    if (!c) {
        pause();
        _exit(1);
    }
    SHOW(pidfd >= 0);
    SHOW(fcntl(pidfd, F_GETFD));
    SHOW(syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0));
    SHOW(waitid(P_PIDFD, pidfd, &info, WEXITED));
    printf("code %d signal %d\n", info.si_code, info.si_status);
    c = fork();
    if (!c) {
        dup2(p[1], 50);
        write(p[1], "r", 1);
        pause();
    }
    read(p[0], b, 1);
    fd = syscall(SYS_pidfd_open, c, 0);
    int got = syscall(SYS_pidfd_getfd, fd, 50, 0);
    SHOW(got >= 0);
    SHOW(write(got, "via", 3));
    SHOW(read(p[0], b, 8));
    SHOW(syscall(SYS_pidfd_getfd, fd, 51, 0));
    SHOW(syscall(SYS_pidfd_getfd, fd, 50, 1));
    kill(c, SIGKILL);
    waitpid(c, NULL, 0);
    SHOW(syscall(SYS_pidfd_getfd, fd, 50, 0));
    return 0;
}
