/* kcmp(2): what processes and descriptors share. */
#include <errno.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
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
    kill(child, SIGKILL);
    wait(NULL);
    return 0;
}
