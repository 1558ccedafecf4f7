#include "unix_common.h"
/* Calls that block, their wake-ups, timeouts, interruption. */
static int fds[2];
static void *reader(void *arg) {
    char b[65536];
    long total = 0, n;
    while ((n = read(fds[1], b, sizeof b)) > 0) total += n;
    return (void *)total;
}
static void *later_close(void *arg) { usleep(20000); close(*(int *)arg); return 0; }
static void *later_write(void *arg) { usleep(20000); write(*(int *)arg, "late", 4); usleep(20000); write(*(int *)arg, "more", 4); return 0; }
static void on_alarm(int s) {}
int main(void) {
    pthread_t t;
    void *v;
    char b[64];
    socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
    pthread_create(&t, 0, reader, 0);
    char *big = calloc(1, 3000000);
    SHOW(write(fds[0], big, 3000000));
    close(fds[0]);
    pthread_join(t, &v);
    printf("read %ld\n", (long)v);
    close(fds[1]);
    int s[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    pthread_create(&t, 0, later_write, &s[0]);
    SHOW(recv(s[1], b, 8, MSG_WAITALL));
    pthread_join(t, 0);
    pthread_create(&t, 0, later_write, &s[0]);
    SHOW(recv(s[1], b, 8, 0));
    pthread_join(t, 0);
    SHOW(recv(s[1], b, 8, 0));
    int low = 6;
    SHOW(setsockopt(s[1], SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
    pthread_create(&t, 0, later_write, &s[0]);
    SHOW(read(s[1], b, 20));
    pthread_join(t, 0);
    low = 1;
    setsockopt(s[1], SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low);
    pthread_create(&t, 0, later_close, &s[0]);
    SHOW(read(s[1], b, 20));
    pthread_join(t, 0);
    close(s[1]);
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    struct timeval tv = {0, 30000};
    SHOW(setsockopt(s[1], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
    SHOW(read(s[1], b, 1));
    SHOW(recv(s[1], b, 1, 0));
    struct iovec iov = {b, 8};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    SHOW(recvmsg(s[1], &m, 0));
    write(s[0], "abc", 3);
    SHOW(recv(s[1], b, 8, MSG_WAITALL));
    socklen_t n = sizeof tv;
    SHOW(getsockopt(s[1], SOL_SOCKET, SO_RCVTIMEO, &tv, &n));
    printf("%ld %d\n", (long)tv.tv_sec, (int)n);
    SHOW(setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
    long r = write(s[0], big, 3000000);
    printf("partial %d\n", r > 100000 && r < 400000);
    SHOW(write(s[0], big, 1));
    tv.tv_usec = 1000000;
    SHOW(setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
    SHOW(setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &tv, 8));
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &sa, 0);
    struct itimerval it = {.it_value = {0, 20000}};
    setitimer(ITIMER_REAL, &it, 0);
    char c;
    int q[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, q);
    tv = (struct timeval){0, 100000};
    setsockopt(q[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    SHOW(read(q[0], &c, 1)); /* a limit: EINTR although SA_RESTART */
    sa.sa_flags = 0;
    sigaction(SIGALRM, &sa, 0);
    setitimer(ITIMER_REAL, &it, 0);
    SHOW(read(q[1], &c, 1));
    setitimer(ITIMER_REAL, &it, 0);
    SHOW(recv(q[1], &c, 1, 0));
    /* a connect that waits for the backlog */
    struct sockaddr_un a;
    n = abstract(&a, "cloche-test-block");
    int l = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(l, (void *)&a, n);
    listen(l, 0);
    int c1 = socket(AF_UNIX, SOCK_STREAM, 0), c2 = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(connect(c1, (void *)&a, n));
    tv = (struct timeval){0, 30000};
    setsockopt(c2, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    SHOW(connect(c2, (void *)&a, n));
    setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    TRY(accept(l, 0, 0));
    SHOW(accept(l, 0, 0));
    return 0;
}
