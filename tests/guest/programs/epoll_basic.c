/* Level, edge, one-shot; MOD, DEL, errors; the kinds of files that are accepted. */
#include "event_show.h"
#include <sys/epoll.h>

static int e;
static void ctl(const char *what, int op, int fd, unsigned events, int data)
{
    struct epoll_event ev = {events, {.u64 = data}};
    errno = 0;
    int r = epoll_ctl(e, op, fd, &ev);
    printf("%s: %d %s\n", what, r, r < 0 ? strerrorname_np(errno) : "");
}

static void wait_show(const char *what, int max)
{
    struct epoll_event ev[10];
    int n = epoll_wait(e, ev, max, 0);
    printf("%s: %d", what, n);
    for (int i = 0; i < n; i++)
        printf(" (%x %d)", ev[i].events, (int)ev[i].data.u64);
    printf("\n");
}

int main(void)
{
    int p[2], q[2];
    char b[100];
    SHOW(epoll_create(0));
    SHOW(epoll_create(-1));
    SHOW(epoll_create1(1));
    e = epoll_create1(EPOLL_CLOEXEC);
    SHOW(fcntl(e, F_GETFD));
    pipe(p);
    pipe(q);
    ctl("add", EPOLL_CTL_ADD, p[0], EPOLLIN, 1);
    ctl("again", EPOLL_CTL_ADD, p[0], EPOLLIN, 1);
    ctl("add out", EPOLL_CTL_ADD, p[1], EPOLLOUT, 2);
    wait_show("out", 10);
    ctl("mod out", EPOLL_CTL_MOD, p[1], 0, 2);
    wait_show("none", 10);
    write(p[1], "ab", 2);
    wait_show("level", 10);
    read(p[0], b, 1);
    wait_show("level still", 10);
    read(p[0], b, 1);
    wait_show("level gone", 10);
    ctl("edge", EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLET, 3);
    write(p[1], "a", 1);
    wait_show("edge", 10);
    wait_show("edge once", 10);
    write(p[1], "b", 1);
    wait_show("edge new data", 10);
    ctl("rearm", EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLET, 4);
    wait_show("rearmed", 10);
    read(p[0], b, 100);
    ctl("one-shot", EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT, 5);
    write(p[1], "c", 1);
    wait_show("one-shot", 10);
    write(p[1], "d", 1);
    wait_show("one-shot off", 10);
    ctl("one-shot on", EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT, 6);
    wait_show("one-shot again", 10);
    ctl("del", EPOLL_CTL_DEL, p[0], 0, 0);
    ctl("del again", EPOLL_CTL_DEL, p[0], 0, 0);
    ctl("mod gone", EPOLL_CTL_MOD, p[0], EPOLLIN, 0);
    ctl("self", EPOLL_CTL_ADD, e, EPOLLIN, 0);
    ctl("bad fd", EPOLL_CTL_ADD, 99, EPOLLIN, 0);
    ctl("bad op", 77, q[0], EPOLLIN, 0);
    int f = open("file", O_RDWR | O_CREAT, 0600), null = open("/dev/null", O_RDWR), dir = open(".", O_RDONLY);
    ctl("regular", EPOLL_CTL_ADD, f, EPOLLIN, 0);
    ctl("null", EPOLL_CTL_ADD, null, EPOLLIN, 0);
    ctl("directory", EPOLL_CTL_ADD, dir, EPOLLIN, 0);
    int rnd = open("/dev/random", O_RDONLY), urnd = open("/dev/urandom", O_RDONLY);
    ctl("random", EPOLL_CTL_ADD, rnd, EPOLLIN, 7);
    ctl("urandom", EPOLL_CTL_ADD, urnd, EPOLLIN, 8);
    wait_show("random", 10);
    close(rnd);
    wait_show("closed", 10);
    SHOW(epoll_ctl(p[0], EPOLL_CTL_ADD, q[0], &(struct epoll_event){EPOLLIN}));
    SHOW(epoll_ctl(e, EPOLL_CTL_ADD, q[0], NULL));
    SHOW(epoll_ctl(e, EPOLL_CTL_DEL, p[1], NULL));
    SHOW(epoll_wait(e, (void *)b, 0, 0));
    SHOW(epoll_wait(e, (void *)b, -1, 0));
    SHOW(epoll_wait(p[0], (void *)b, 1, 0));
    SHOW(epoll_wait(99, (void *)b, 1, 0));
    ctl("hang-up only", EPOLL_CTL_ADD, q[0], 0, 9);
    write(q[1], "x", 1);
    wait_show("nothing wanted", 10);
    close(q[1]);
    wait_show("hung up", 10);
    SHOW(read(e, b, 10));
    SHOW(write(e, b, 10));
    SHOW(lseek(e, 5, SEEK_SET));
    show_poll("epoll itself", e, POLLIN);
    return 0;
}
