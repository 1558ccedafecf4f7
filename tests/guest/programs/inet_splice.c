#include "inet_common.h"
#include <sys/sendfile.h>
/* splice, tee, vmsplice and sendfile between pipes, files and sockets. */
static char b[300000];
static int got(int fd) { int r = recv(fd, b, sizeof b, MSG_DONTWAIT); return r < 0 ? -errno : r; }
static void family(int domain, int type) {
    int s[2], p[2], q[2];
    printf("-- family %d type %d\n", domain, type);
    if (domain == AF_INET && type == SOCK_STREAM) tcp_pair(s);
    else if (domain == AF_UNIX) socketpair(AF_UNIX, type, 0, s);
    else {
        s[0] = socket(AF_INET, SOCK_DGRAM, 0); s[1] = socket(AF_INET, SOCK_DGRAM, 0);
        struct sockaddr_in a = in4("127.0.0.1", bound(s[1], "127.0.0.1"));
        connect(s[0], (void *)&a, sizeof a);
    }
    pipe(p); pipe(q);
    fcntl(s[1], F_SETFL, O_NONBLOCK);
    write(p[1], "hello world", 11);
    SHOW(tee(p[0], q[1], 100, 0));
    SHOW(splice(p[0], 0, s[0], 0, 5, SPLICE_F_MORE | SPLICE_F_MOVE));
    SHOW(splice(p[0], 0, s[0], 0, 100, 0));
    usleep(2000);
    printf("got %d\n", got(s[1]));
    printf("got %d\n", got(s[1]));
    struct iovec v[2] = {{"vm", 2}, {"splice", 6}};
    SHOW(vmsplice(p[1], v, 2, 0));
    SHOW(splice(p[0], 0, s[0], 0, 100, SPLICE_F_NONBLOCK));
    SHOW(splice(p[0], 0, s[0], 0, 100, SPLICE_F_NONBLOCK));
    usleep(1000);
    SHOW(splice(s[1], 0, p[1], 0, 100, 0));
    printf("read %d\n", (int)read(p[0], b, 100));
    if (type == SOCK_DGRAM) { /* one message at a time */
        send(s[0], "a", 1, 0); send(s[0], "bc", 2, 0);
        SHOW(splice(s[1], 0, p[1], 0, 100, 0));
        SHOW(splice(s[1], 0, p[1], 0, 100, SPLICE_F_NONBLOCK));
    }
    SHOW(splice(s[1], 0, p[1], 0, 100, SPLICE_F_NONBLOCK));
    loff_t off = 0;
    SHOW(splice(s[1], &off, p[1], 0, 100, SPLICE_F_NONBLOCK));
    SHOW(splice(p[0], 0, s[0], &off, 100, SPLICE_F_NONBLOCK));
    SHOW(splice(s[1], 0, s[0], 0, 100, SPLICE_F_NONBLOCK));
    SHOW(tee(s[1], p[1], 100, SPLICE_F_NONBLOCK));
    int f = open("data", O_RDWR | O_CREAT | O_TRUNC, 0600);
    memset(b, 'f', 100000);
    write(f, b, 100000);
    off = 10;
    int step = type == SOCK_STREAM ? 50000 : 4000;
    SHOW(sendfile(s[0], f, &off, step));
    printf("offset %d\n", (int)off);
    int sum = 0, r;
    usleep(1000);
    while ((r = got(s[1])) > 0) sum += r;
    printf("sum %d\n", sum);
    off = 99990;
    SHOW(sendfile(s[0], f, &off, 50000));
    SHOW(sendfile(s[0], f, &off, 50000));
    usleep(1000);
    printf("got %d\n", got(s[1]));
    lseek(f, 0, SEEK_SET);
    SHOW(sendfile(f, s[1], 0, 10));
    SHOW(sendfile(s[0], p[0], 0, 10));
    /* The flag alone does not keep a blocking internet socket from waiting. */
    struct timeval limit = {0, 50000};
    fcntl(s[1], F_SETFL, 0);
    setsockopt(s[1], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    SHOW(splice(s[1], 0, p[1], 0, 100, SPLICE_F_NONBLOCK));
    clock_gettime(CLOCK_MONOTONIC, &after);
    printf("waited %d\n", (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000 >= 40);
    fcntl(s[1], F_SETFL, O_NONBLOCK);
    fcntl(s[0], F_SETFL, O_NONBLOCK);
    if (type == SOCK_STREAM) {
        sum = 0;
        while (off = 0, (r = sendfile(s[0], f, &off, 100000)) > 0) sum += r;
        printf("full %s %s\n", sum > 50000 ? "yes" : "no", strerror(errno));
        int in = 0;
        while (in < sum && (r = got(s[1])) > 0) in += r;
        printf("equal %d\n", in == sum);
    }
    shutdown(s[0], SHUT_WR);
    signal(SIGPIPE, SIG_IGN);
    write(p[1], "z", 1);
    off = 0;
    SHOW(splice(p[0], 0, s[0], 0, 10, 0));
    SHOW(sendfile(s[0], f, &off, 10));
    if (type == SOCK_STREAM) SHOW(splice(s[1], 0, p[1], 0, 10, 0));
    close(s[0]); close(s[1]); close(p[0]); close(p[1]); close(q[0]); close(q[1]); close(f);
}
int main(void) {
    family(AF_INET, SOCK_STREAM);
    family(AF_UNIX, SOCK_STREAM);
    family(AF_INET, SOCK_DGRAM);
    family(AF_UNIX, SOCK_DGRAM);
    family(AF_UNIX, SOCK_SEQPACKET);
    return 0;
}
