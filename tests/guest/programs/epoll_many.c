/* Many descriptors: order, fairness with a small buffer, duplicates, closing. */
#include "event_show.h"
#include <sys/epoll.h>

int main(void)
{
    int e = epoll_create1(0), p[40][2];
    struct epoll_event ev[64];
    for (int i = 0; i < 40; i++) {
        pipe(p[i]);
        ev[0] = (struct epoll_event){EPOLLIN, {.u32 = i}};
        epoll_ctl(e, EPOLL_CTL_ADD, p[i][0], ev);
    }
    for (int i = 39; i >= 0; i -= 3)
        write(p[i][1], "x", 1);
    int n = epoll_wait(e, ev, 64, -1);
    printf("%d:", n);
    for (int i = 0; i < n; i++)
        printf(" %d", ev[i].data.u32);
    printf("\n");
    for (int round = 0; round < 5; round++) {
        n = epoll_wait(e, ev, 3, -1);
        for (int i = 0; i < n; i++)
            printf(" %d", ev[i].data.u32);
        printf("\n");
    }
    char b[10];
    for (int i = 39; i >= 20; i--)
        if (i % 3 == 0)
            read(p[i][0], b, 10);
    n = epoll_wait(e, ev, 64, -1);
    printf("%d\n", n);
    /* A duplicate keeps the item alive after its descriptor is closed. */
    int d = dup(p[3][0]);
    ev[0] = (struct epoll_event){EPOLLIN, {.u32 = 100}};
    SHOW(epoll_ctl(e, EPOLL_CTL_ADD, d, ev));
    int before = epoll_wait(e, ev, 64, 0);
    close(p[3][0]);
    printf("same %d\n", epoll_wait(e, ev, 64, 0) == before);
    SHOW(epoll_ctl(e, EPOLL_CTL_DEL, p[3][0], ev));
    close(d);
    printf("two less %d\n", epoll_wait(e, ev, 64, 0) == before - 2);
    /* The child's close does not remove what the parent watches. */
    if (!fork()) {
        for (int i = 0; i < 40; i++)
            close(p[i][0]);
        _exit(0);
    }
    wait(NULL);
    printf("unchanged %d\n", epoll_wait(e, ev, 64, 0) == before - 2);
    return 0;
}
