#include "inet_common.h"
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/sendfile.h>
/* MSG_MORE, TCP_CORK and UDP_CORK hold data back until there is more, and how they are let go. */
static char b[200000];
static int got(int fd) { usleep(2000); int r = recv(fd, b, sizeof b, MSG_DONTWAIT); return r < 0 ? -errno : r; }
static void opt(int fd, int level, int name, int v) { if (setsockopt(fd, level, name, &v, sizeof v) < 0) printf("setsockopt %d %s\n", name, strerror(errno)); }

int main(void) {
    int p[2];
    tcp_pair(p);
    opt(p[0], IPPROTO_TCP, TCP_NODELAY, 1);
    SHOW(send(p[0], "one", 3, MSG_MORE));
    printf("held %d\n", got(p[1]));
    events("held", p[1]);
    SHOW(send(p[0], "two", 3, 0));
    printf("together %d\n", got(p[1]));
    SHOW(send(p[0], "x", 1, MSG_MORE));
    SHOW(send(p[0], "y", 1, MSG_MORE));
    opt(p[0], IPPROTO_TCP, TCP_NODELAY, 1);
    printf("nodelay pushes %d\n", got(p[1]));
    opt(p[0], IPPROTO_TCP, TCP_CORK, 1);
    SHOW(send(p[0], "abcd", 4, 0));
    printf("corked %d\n", got(p[1]));
    SHOW(write(p[0], "efgh", 4));
    printf("corked %d\n", got(p[1]));
    opt(p[0], IPPROTO_TCP, TCP_CORK, 0);
    printf("uncorked %d\n", got(p[1]));
    opt(p[0], IPPROTO_TCP, TCP_CORK, 1);
    SHOW(send(p[0], "abcde", 5, 0));
    opt(p[0], IPPROTO_TCP, TCP_NODELAY, 1);
    printf("corked and nodelay set %d\n", got(p[1]));
    usleep(300000);
    printf("after 300 ms %d\n", got(p[1]));
    SHOW(send(p[0], "zz", 2, 0));
    SHOW(shutdown(p[0], SHUT_WR));
    printf("shutdown pushes %d\n", got(p[1]));
    printf("end %d\n", got(p[1]));
    close(p[0]); close(p[1]);

    tcp_pair(p);
    SHOW(send(p[0], "more", 4, MSG_MORE));
    printf("held %d\n", got(p[1]));
    int out = -1;
    ioctl(p[0], SIOCOUTQ, &out); printf("outq %d\n", out);
    ioctl(p[0], 0x894B, &out); printf("outqnsd %d\n", out);
    close(p[0]);
    printf("close pushes %d\n", got(p[1]));
    printf("end %d\n", got(p[1]));
    close(p[1]);

    tcp_pair(p);
    SHOW(send(p[0], "o", 1, MSG_MORE));
    SHOW(send(p[0], "u", 1, MSG_OOB));
    printf("urgent pushes %d\n", got(p[1]));
    close(p[0]); close(p[1]);

    /* A full segment is not held back. */
    tcp_pair(p);
    opt(p[0], IPPROTO_TCP, TCP_CORK, 1);
    memset(b, 'q', sizeof b);
    printf("big %d\n", (int)send(p[0], b, 150000, 0));
    int sum = 0, r;
    while ((r = got(p[1])) > 0) sum += r;
    printf("some %s\n", sum > 0 && sum <= 150000 ? "yes" : "no");
    opt(p[0], IPPROTO_TCP, TCP_CORK, 0);
    while ((r = got(p[1])) > 0) sum += r;
    printf("all %d\n", sum);
    close(p[0]); close(p[1]);

    /* UDP: one datagram of several sends. */
    int port, a = socket(AF_INET, SOCK_DGRAM, 0), u = socket(AF_INET, SOCK_DGRAM, 0);
    port = bound(a, "127.0.0.1");
    struct sockaddr_in to = in4("127.0.0.1", port);
    SHOW(sendto(u, "12", 2, MSG_MORE, (void *)&to, sizeof to));
    printf("udp held %d\n", got(a));
    SHOW(sendto(u, "345", 3, 0, (void *)&to, sizeof to));
    printf("udp together %d\n", got(a));
    connect(u, (void *)&to, sizeof to);
    opt(u, IPPROTO_UDP, UDP_CORK, 1);
    SHOW(send(u, "a", 1, 0));
    SHOW(send(u, "b", 1, 0));
    printf("udp corked %d\n", got(a));
    ioctl(u, SIOCOUTQ, &out);
    opt(u, IPPROTO_UDP, UDP_CORK, 0);
    printf("udp uncorked %d\n", got(a));
    SHOW(send(u, "c", 1, MSG_MORE));
    SHOW(send(u, "", 0, 0));
    printf("udp %d\n", got(a));
    SHOW(send(u, "d", 1, MSG_MORE));
    SHOW(sendto(u, "e", 1, 0, (void *)&to, sizeof to));
    printf("udp %d\n", got(a));
    SHOW(send(u, b, 60000, MSG_MORE));
    SHOW(send(u, b, 10000, 0));
    printf("udp too long %d\n", got(a));
    SHOW(send(u, "f", 1, 0));
    printf("udp after %d\n", got(a));
    /* What is held back counts in the send buffer. */
    opt(u, SOL_SOCKET, SO_SNDBUF, 1);
    opt(u, IPPROTO_UDP, UDP_CORK, 1);
    for (int i = 0; i < 4; i++) {
        struct pollfd p = {u, POLLOUT};
        if (i == 3) opt(u, IPPROTO_UDP, UDP_CORK, 0);
        else send(u, b, 1000, 0);
        SHOW(poll(&p, 1, 0));
        ioctl(u, SIOCOUTQ, &out);
        printf("held %d\n", out);
    }
    printf("udp whole %d\n", got(a));
    close(a); close(u);
    return 0;
}
