/* Buffers that are too small, FIONREAD, blocking reads, polling, two instances. */
#include "event_show.h"
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>

static void touch(const char *name) { close(open(name, O_CREAT | O_WRONLY, 0600)); }

int main(void)
{
    char b[4096];
    int n, a = inotify_init(), c = inotify_init1(IN_NONBLOCK);
    SHOW(inotify_add_watch(a, ".", IN_CREATE | IN_DELETE));
    SHOW(inotify_add_watch(c, ".", IN_CREATE));
    show_poll("empty", a, POLLIN | POLLOUT);
    touch("one");
    touch("a-longer-name-than-16");
    unlink("one");
    show_poll("events", a, POLLIN | POLLOUT);
    SHOW(ioctl(a, FIONREAD, &n));
    printf("%d\n", n);
    SHOW(read(a, b, 16));
    SHOW(read(a, b, 32));
    SHOW(read(a, b, 50));
    SHOW(read(a, b, 4096));
    SHOW(read(c, b, 4096));
    SHOW(read(c, b, 4096));
    SHOW(write(a, b, 16));
    SHOW(lseek(a, 0, SEEK_CUR));
    if (!fork()) {
        nap_ms(20);
        touch("late");
        _exit(0);
    }
    SHOW(read(a, b, 4096));
    struct inotify_event *e = (void *)b;
    printf("%s %u\n", e->name, e->len);
    wait(NULL);
    int ep = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN};
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, a, &ev));
    SHOW(epoll_wait(ep, &ev, 1, 0));
    unlink("late");
    SHOW(epoll_wait(ep, &ev, 1, 1000));
    return 0;
}
