/* Records, masks, several at once, blocking reads, polling, epoll, inheritance. */
#include "event_show.h"
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

int main(void)
{
    struct signalfd_siginfo s[4];
    sigset_t m, none;
    sigemptyset(&none);
    sigemptyset(&m);
    sigaddset(&m, SIGUSR1);
    sigaddset(&m, SIGUSR2);
    sigaddset(&m, SIGRTMIN + 2);
    sigaddset(&m, SIGCHLD);
    sigprocmask(SIG_BLOCK, &m, NULL);
    SHOW(signalfd(-1, &m, 0x10));
    int f = signalfd(-1, &m, SFD_NONBLOCK | SFD_CLOEXEC);
    SHOW(read(f, s, sizeof s));
    show_poll("none", f, POLLIN | POLLOUT);
    kill(getpid(), SIGUSR2);
    raise(SIGUSR1);
    sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 42});
    sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 43});
    show_poll("three kinds", f, POLLIN);
    SHOW(read(f, s, 100));
    SHOW(read(f, s, sizeof s[0] * 2));
    for (int i = 0; i < 2; i++)
        printf("%d code %d mine %d uid %d\n", s[i].ssi_signo, s[i].ssi_code, s[i].ssi_pid == getpid(), s[i].ssi_uid == getuid());
    SHOW(read(f, s, sizeof s));
    for (int i = 0; i < 2; i++)
        printf("%d code %d value %d\n", s[i].ssi_signo - SIGRTMIN, s[i].ssi_code, s[i].ssi_int);
    SHOW(read(f, s, sizeof s));
    if (!fork())
        _exit(7);
    struct pollfd p = {f, POLLIN};
    SHOW(poll(&p, 1, 5000));
    SHOW(read(f, s, sizeof s));
    printf("SIGCHLD %d code %d status %d\n", s[0].ssi_signo == SIGCHLD, s[0].ssi_code, s[0].ssi_status);
    wait(NULL);
    /* A child reads its own signals through the inherited descriptor. */
    if (!fork()) {
        raise(SIGUSR1);
        SHOW(read(f, s, sizeof s));
        printf("own %d\n", s[0].ssi_pid == getpid());
        _exit(0);
    }
    wait(NULL);
    read(f, s, sizeof s);
    SHOW(read(f, s, sizeof s));
    int e = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN};
    epoll_ctl(e, EPOLL_CTL_ADD, f, &ev);
    SHOW(epoll_wait(e, &ev, 1, 0));
    raise(SIGUSR2);
    SHOW(epoll_wait(e, &ev, 1, 1000));
    sigemptyset(&m);
    sigaddset(&m, SIGUSR1);
    SHOW(signalfd(f, &m, 0) == f);
    SHOW(read(f, s, sizeof s));
    SHOW(epoll_wait(e, &ev, 1, 0));
    SHOW(signalfd(e, &m, 0));
    SHOW(signalfd(99, &m, 0));
    SHOW(syscall(SYS_signalfd4, -1, &m, 4, 0));
    fcntl(f, F_SETFL, 0);
    pid_t parent = getpid();
    if (!fork()) {
        nap_ms(20);
        kill(parent, SIGUSR1);
        _exit(0);
    }
    SHOW(read(f, s, sizeof s));
    printf("%d from child %d\n", s[0].ssi_signo == SIGUSR1, s[0].ssi_pid != parent);
    return 0;
}
