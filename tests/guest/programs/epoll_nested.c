/* Epolls in epolls: readiness passes through; loops and long chains are refused. */
#include "event_show.h"
#include <sys/epoll.h>

int main(void)
{
    int a = epoll_create1(0), b = epoll_create1(0), c = epoll_create1(0), p[2];
    struct epoll_event ev = {EPOLLIN}, out[4];
    char buf[4];
    pipe(p);
    SHOW(epoll_ctl(a, EPOLL_CTL_ADD, b, &ev));
    SHOW(epoll_ctl(b, EPOLL_CTL_ADD, c, &ev));
    SHOW(epoll_ctl(c, EPOLL_CTL_ADD, p[0], &ev));
    SHOW(epoll_ctl(c, EPOLL_CTL_ADD, a, &ev));
    SHOW(epoll_ctl(b, EPOLL_CTL_ADD, a, &ev));
    SHOW(epoll_wait(a, out, 4, 0));
    show_poll("outer", a, POLLIN);
    write(p[1], "x", 1);
    SHOW(epoll_wait(a, out, 4, -1));
    show_poll("outer", a, POLLIN);
    SHOW(epoll_wait(b, out, 4, 0));
    SHOW(epoll_wait(c, out, 4, 0));
    read(p[0], buf, 1);
    SHOW(epoll_wait(a, out, 4, 0));
    if (!fork()) {
        nap_ms(20);
        write(p[1], "y", 1);
        _exit(0);
    }
    SHOW(epoll_wait(a, out, 4, 5000));
    wait(NULL);
    ev.events = EPOLLIN | EPOLLET;
    SHOW(epoll_ctl(a, EPOLL_CTL_MOD, b, &ev));
    SHOW(epoll_wait(a, out, 4, 0));
    SHOW(epoll_wait(a, out, 4, 0));
    int chain[10];
    for (int i = 0; i < 10; i++)
        chain[i] = epoll_create1(0);
    ev.events = EPOLLIN;
    for (int i = 0; i < 9; i++)
        SHOW(epoll_ctl(chain[i + 1], EPOLL_CTL_ADD, chain[i], &ev));
    ev.events = EPOLLIN | EPOLLEXCLUSIVE;
    SHOW(epoll_ctl(a, EPOLL_CTL_ADD, p[0], &ev));
    SHOW(epoll_ctl(a, EPOLL_CTL_MOD, p[0], &ev));
    ev.events = EPOLLIN;
    SHOW(epoll_ctl(a, EPOLL_CTL_MOD, p[0], &ev));
    ev.events = EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT;
    SHOW(epoll_ctl(a, EPOLL_CTL_ADD, p[1], &ev));
    ev.events = EPOLLIN | EPOLLEXCLUSIVE;
    SHOW(epoll_ctl(a, EPOLL_CTL_ADD, c, &ev));
    return 0;
}
