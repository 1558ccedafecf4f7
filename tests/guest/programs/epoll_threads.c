/* Threads that wait on one epoll: each event wakes one; adding and closing while others wait; time limits. */
#include "event_show.h"
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

static int e, total;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *worker(void *arg)
{
    struct epoll_event ev;
    uint64_t value;
    for (;;) {
        if (epoll_wait(e, &ev, 1, -1) != 1)
            return "failed";
        if (ev.data.fd < 0)
            return NULL;
        if (read(ev.data.fd, &value, 8) == 8) {
            pthread_mutex_lock(&lock);
            total += value;
            pthread_mutex_unlock(&lock);
        }
        ev.events = EPOLLIN | EPOLLONESHOT;
        epoll_ctl(e, EPOLL_CTL_MOD, ev.data.fd, &ev);
    }
}

int main(void)
{
    pthread_t t[4];
    int fd[8];
    void *result;
    e = epoll_create1(0);
    for (int i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, worker, NULL);
    nap_ms(10);
    for (int i = 0; i < 8; i++) {
        fd[i] = eventfd(0, EFD_NONBLOCK);
        struct epoll_event ev = {EPOLLIN | EPOLLONESHOT, {.fd = fd[i]}};
        epoll_ctl(e, EPOLL_CTL_ADD, fd[i], &ev);
    }
    for (int round = 0; round < 100; round++)
        for (int i = 0; i < 8; i++) {
            uint64_t one = 1;
            write(fd[i], &one, 8);
        }
    for (int i = 0; i < 200 && total < 800; i++)
        nap_ms(5);
    printf("total %d\n", total);
    int stop = eventfd(1, 0);
    struct epoll_event ev = {EPOLLIN, {.fd = -1}};
    epoll_ctl(e, EPOLL_CTL_ADD, stop, &ev);
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], &result);
        printf("%s\n", result ? (char *)result : "done");
    }
    int quiet = epoll_create1(0);
    long long start = now_ms();
    SHOW(epoll_wait(quiet, &ev, 1, 40));
    printf("waited %d\n", now_ms() - start >= 39);
    struct timespec ts = {0, 20000000}, bad = {0, -1}, zero = {0, 0};
    start = now_ms();
    SHOW(syscall(SYS_epoll_pwait2, quiet, &ev, 1, &ts, NULL, 0));
    printf("waited %d\n", now_ms() - start >= 19);
    SHOW(syscall(SYS_epoll_pwait2, quiet, &ev, 1, &bad, NULL, 0));
    SHOW(syscall(SYS_epoll_pwait2, quiet, &ev, 1, &zero, NULL, 0));
    return 0;
}
