/* kcmp(2): the objects that processes and descriptors share. */
#include <errno.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int same(int a, int b, int type, long x, long y) {
    errno = 0;
    long r = syscall(SYS_kcmp, a, b, type, x, y);
    return r < 0 ? -errno : r == 0;
}

int main(void) {
    int me = getpid(), fd = dup(1), other[2];
    pipe(other);
    printf("%d %d %d\n", same(me, me, KCMP_FILE, 1, fd), same(me, me, KCMP_FILE, 1, other[0]), same(me, me, KCMP_VM, 0, 0));
    int child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    printf("%d", same(me, child, KCMP_FILE, 1, 1));
    printf(" %d", same(me, child, KCMP_VM, 0, 0));
    printf(" %d", same(me, child, KCMP_FILES, 0, 0));
    printf(" %d", same(me, child, KCMP_FS, 0, 0));
    printf(" %d\n", same(me, child, KCMP_SIGHAND, 0, 0));
    printf("%d", same(me, child, KCMP_FILE, 99, 1));
    printf(" %d", same(me, child, 99, 0, 0));
    printf(" %d\n", same(me, 0x3fffff0, KCMP_VM, 0, 0));
    printf("%d %d\n", same(me, me, KCMP_SYSVSEM, 0, 0), same(me, child, KCMP_SYSVSEM, 0, 0));
    int ep = epoll_create1(0);
    struct epoll_event event = {EPOLLIN};
    epoll_ctl(ep, EPOLL_CTL_ADD, other[0], &event);
    dup2(other[1], other[0]); /* the old read end stays watched only if another descriptor is left */
    struct kcmp_epoll_slot slot = {ep, other[0], 0}, none = {ep, other[0], 1}, bad = {fd, 0, 0}, closed = {99, 0, 0};
    printf("%d\n", same(me, me, KCMP_EPOLL_TFD, other[1], (long)&slot));
    pipe(other);
    epoll_ctl(ep, EPOLL_CTL_ADD, other[0], &event);
    slot.tfd = none.tfd = other[0];
    printf("%d", same(me, me, KCMP_EPOLL_TFD, other[0], (long)&slot));
    printf(" %d", same(me, me, KCMP_EPOLL_TFD, fd, (long)&slot));
    printf(" %d", same(me, me, KCMP_EPOLL_TFD, other[0], (long)&none));
    printf(" %d", same(me, me, KCMP_EPOLL_TFD, other[0], (long)&bad));
    printf(" %d", same(me, me, KCMP_EPOLL_TFD, other[0], (long)&closed));
    printf(" %d", same(me, me, KCMP_EPOLL_TFD, 99, (long)&slot));
    printf(" %d\n", same(me, me, KCMP_EPOLL_TFD, 99, 8));
    kill(child, SIGKILL);
    wait(NULL);
    return 0;
}
