#include "inet_common.h"
/* IPv6 headers of options: with a datagram, for all of a socket, the headers that the receiver sees, and those that
 * are dropped. */
#include <netinet/in.h>
#include <netinet/ip6.h>
#include <stdlib.h>
#include <sys/wait.h>

static int rx, tx;
static struct sockaddr_in6 to;

static void hear(const char *what)
{
    char data[8], control[512];
    struct iovec v = {data, sizeof data};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(rx, &m, MSG_DONTWAIT);
    printf("%s: %zd flags %x", what, n, n < 0 ? 0 : m.msg_flags);
    for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        printf(" | %d %d:", c->cmsg_level, c->cmsg_type);
        for (unsigned i = 0; i < c->cmsg_len - CMSG_LEN(0); i++)
            printf(" %02x", CMSG_DATA(c)[i]);
    }
    printf("\n");
}

/* Send one datagram with up to two headers. */
static void with(const char *what, int kind, const char *header, unsigned size, int kind2, const char *header2, unsigned size2)
{
    char control[256] = {0};
    struct iovec v = {"abc", 3};
    struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &v, .msg_iovlen = 1,
                       .msg_control = control, .msg_controllen = CMSG_SPACE(size) + (size2 ? CMSG_SPACE(size2) : 0)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = IPPROTO_IPV6;
    c->cmsg_type = kind;
    c->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(c), header, size);
    if (size2) {
        c = CMSG_NXTHDR(&m, c);
        c->cmsg_level = IPPROTO_IPV6;
        c->cmsg_type = kind2;
        c->cmsg_len = CMSG_LEN(size2);
        memcpy(CMSG_DATA(c), header2, size2);
    }
    SHOW(sendmsg(tx, &m, 0));
    hear(what);
}

static int shown(int name)
{
    unsigned char b[64];
    socklen_t n = sizeof b;
    int r = getsockopt(tx, IPPROTO_IPV6, name, b, &n);
    printf("  %d is %d:", name, r < 0 ? -1 : (int)n);
    for (unsigned i = 0; r == 0 && i < n; i++)
        printf(" %02x", b[i]);
    printf("\n");
    return r;
}

int main(void)
{
    static const char pad[8] = {0, 0, 1, 4}, unknown[8] = {0, 0, 0x1e, 2, 9, 9, 1, 0}, two[16] = {0, 1, 0x1e, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
                      dropped[8] = {0, 0, 0x5e, 4}, dirty[8] = {0, 0, 1, 4, 7}, zeros[8] = {0}, alert[8] = {0, 0, 5, 2, 0, 0, 1, 0},
                      bad_alert[8] = {0, 0, 5, 1, 0, 0, 0, 0}, too_long[8] = {0, 0, 0x1e, 20}, many[32] = {0, 3, 0x1e, 0, 0x1e, 0, 0x1e, 0, 0x1e, 0, 0x1e, 0, 0x1e, 0, 0x1e, 0, 0x1e, 0, 0x1e, 0, 0x1e, 0, 1, 6};
    int on = 1;
    rx = socket(AF_INET6, SOCK_DGRAM, 0);
    tx = socket(AF_INET6, SOCK_DGRAM, 0);
    to = in6("::1", 0);
    SHOW(bind(rx, (void *)&to, sizeof to));
    socklen_t n = sizeof to;
    getsockname(rx, (void *)&to, &n);

    with("not asked for", IPV6_HOPOPTS, pad, 8, 0, 0, 0);
    SHOW(setsockopt(rx, IPPROTO_IPV6, IPV6_RECVHOPOPTS, &on, 4));
    SHOW(setsockopt(rx, IPPROTO_IPV6, IPV6_RECVDSTOPTS, &on, 4));
    with("hop", IPV6_HOPOPTS, unknown, 8, 0, 0, 0);
    with("dest", IPV6_DSTOPTS, two, 16, 0, 0, 0);
    with("both", IPV6_DSTOPTS, pad, 8, IPV6_HOPOPTS, unknown, 8);
    with("before a route that there is not", IPV6_RTHDRDSTOPTS, pad, 8, 0, 0, 0);
    with("twice", IPV6_HOPOPTS, pad, 8, IPV6_HOPOPTS, pad, 8);
    with("more than it says", IPV6_HOPOPTS, two, 8, 0, 0, 0);
    with("less than it says", IPV6_HOPOPTS, pad, 4, 0, 0, 0);
    with("too short", IPV6_DSTOPTS, pad, 1, 0, 0, 0);
    with("the rest is no header", IPV6_DSTOPTS, many, 32, 0, 0, 0);
    with("to be dropped", IPV6_HOPOPTS, dropped, 8, 0, 0, 0);
    with("to be dropped at the end", IPV6_DSTOPTS, dropped, 8, 0, 0, 0);
    with("padding that says something", IPV6_DSTOPTS, dirty, 8, 0, 0, 0);
    with("single bytes of padding", IPV6_DSTOPTS, zeros, 8, 0, 0, 0);
    with("alert", IPV6_HOPOPTS, alert, 8, 0, 0, 0);
    with("alert of a wrong size", IPV6_HOPOPTS, bad_alert, 8, 0, 0, 0);
    with("longer than the header", IPV6_HOPOPTS, too_long, 8, 0, 0, 0);

    SHOW(shown(IPV6_HOPOPTS));
    SHOW(setsockopt(tx, IPPROTO_IPV6, IPV6_HOPOPTS, unknown, 8));
    SHOW(setsockopt(tx, IPPROTO_IPV6, IPV6_DSTOPTS, two, 16));
    SHOW(setsockopt(tx, IPPROTO_IPV6, IPV6_DSTOPTS, two, 8));
    SHOW(setsockopt(tx, IPPROTO_IPV6, IPV6_DSTOPTS, two, 12));
    SHOW(setsockopt(tx, IPPROTO_IPV6, IPV6_DSTOPTS, two, 1));
    SHOW(setsockopt(tx, IPPROTO_IPV6, IPV6_RTHDRDSTOPTS, pad, 8));
    SHOW(shown(IPV6_HOPOPTS));
    SHOW(shown(IPV6_DSTOPTS));
    SHOW(shown(IPV6_RTHDRDSTOPTS));
    SHOW(sendto(tx, "abc", 3, 0, (void *)&to, sizeof to));
    hear("of the socket");
    with("of the message instead", IPV6_DSTOPTS, pad, 8, 0, 0, 0);
    SHOW(setsockopt(rx, IPPROTO_IPV6, IPV6_2292HOPOPTS, &on, 4));
    SHOW(setsockopt(rx, IPPROTO_IPV6, IPV6_2292DSTOPTS, &on, 4));
    SHOW(setsockopt(rx, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, 4));
    SHOW(sendto(tx, "abc", 3, 0, (void *)&to, sizeof to));
    hear("in both ways");
    SHOW(setsockopt(tx, IPPROTO_IPV6, IPV6_HOPOPTS, NULL, 0));
    SHOW(shown(IPV6_HOPOPTS));
    SHOW(sendto(tx, "abc", 3, 0, (void *)&to, sizeof to));
    hear("without one");
    fflush(stdout);
    if (!fork()) {
        SHOW(setresgid(1000, 1000, 1000));
        SHOW(setresuid(1000, 1000, 1000));
        with("without a capability", IPV6_HOPOPTS, pad, 8, 0, 0, 0);
        SHOW(setsockopt(tx, IPPROTO_IPV6, IPV6_DSTOPTS, pad, 8));
        exit(0);
    }
    wait(NULL);
    return 0;
}
