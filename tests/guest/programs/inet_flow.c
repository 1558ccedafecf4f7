#include "inet_common.h"
/* Flow labels and traffic classes of IPv6 datagrams: by address, by message, by themselves. */
#include <netinet/in.h>

static int rx, tx;
static struct sockaddr_in6 to;

#ifndef IPV6_FLOWINFO
#define IPV6_FLOWINFO 11
#endif
#ifndef IPV6_FLOWINFO_SEND
#define IPV6_FLOWINFO_SEND 33
#endif

static void hear(const char *what, int is_any)
{
    char data[8], control[256];
    struct iovec v = {data, sizeof data};
    struct sockaddr_in6 from;
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control, .msg_name = &from, .msg_namelen = sizeof from};
    ssize_t n = recvmsg(rx, &m, MSG_DONTWAIT);
    printf("%s: %zd", what, n);
    for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        uint32_t flow = ntohl(*(uint32_t *)CMSG_DATA(c));
        printf(" %d %zu %x %x", c->cmsg_type, c->cmsg_len, flow >> 20, is_any ? (flow & 0xFFFFF) != 0 : flow & 0xFFFFF);
    }
    printf(" from %x\n", n < 0 ? 0 : from.sin6_flowinfo);
}

static void with(const char *what, uint32_t flow, int size)
{
    char control[CMSG_SPACE(4)] = {0};
    struct iovec v = {"abc", 3};
    struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = IPPROTO_IPV6;
    c->cmsg_type = IPV6_FLOWINFO;
    c->cmsg_len = CMSG_LEN(size);
    flow = htonl(flow);
    memcpy(CMSG_DATA(c), &flow, size);
    SHOW(sendmsg(tx, &m, 0));
    hear(what, 0);
}

int main(void)
{
    int on = 1, off = 0, class = 0x20;
    rx = socket(AF_INET6, SOCK_DGRAM, 0);
    tx = socket(AF_INET6, SOCK_DGRAM, 0);
    to = in6("::1", 0);
    SHOW(bind(rx, (void *)&to, sizeof to));
    socklen_t n = sizeof to;
    getsockname(rx, (void *)&to, &n);
    SHOW(send(tx, "abc", 3, 0));
    SHOW(sendto(tx, "abc", 3, 0, (void *)&to, sizeof to));
    hear("not asked for", 1);
    SHOW(setsockopt(rx, IPPROTO_IPV6, IPV6_FLOWINFO, &on, 4));
    SHOW(sendto(tx, "abc", 3, 0, (void *)&to, sizeof to));
    hear("by itself", 1);
    SHOW(setsockopt(tx, IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, &off, 4));
    SHOW(sendto(tx, "abc", 3, 0, (void *)&to, sizeof to));
    hear("none", 0);
    to.sin6_flowinfo = htonl(0x0AB12345);
    SHOW(sendto(tx, "abc", 3, 0, (void *)&to, sizeof to));
    hear("by address, unasked", 0);
    SHOW(setsockopt(tx, IPPROTO_IPV6, IPV6_FLOWINFO_SEND, &on, 4));
    SHOW(sendto(tx, "abc", 3, 0, (void *)&to, sizeof to));
    hear("by address", 0);
    SHOW(setsockopt(tx, IPPROTO_IPV6, IPV6_TCLASS, &class, 4));
    SHOW(sendto(tx, "abc", 3, 0, (void *)&to, sizeof to));
    hear("with a class", 0);
    to.sin6_flowinfo = 0;
    SHOW(sendto(tx, "abc", 3, 0, (void *)&to, sizeof to));
    hear("the class alone", 0);
    with("by message", 0x54321, 4);
    with("too short", 0x54321, 3);
    to.sin6_flowinfo = htonl(0x777);
    SHOW(connect(tx, (void *)&to, sizeof to));
    SHOW(send(tx, "abc", 3, 0));
    hear("connected", 0);
    SHOW(setsockopt(tx, IPPROTO_IPV6, IPV6_FLOWINFO_SEND, &off, 4));
    SHOW(send(tx, "abc", 3, 0));
    hear("still", 0);
    return 0;
}
