#include "inet_common.h"
/* UDP: connected and not, errors, truncation, queues, control messages. */
static void cmsgs(int s, int flags) {
    char c[512], b[64];
    struct sockaddr_storage from;
    struct iovec iov = {b, sizeof b};
    struct msghdr m = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &iov, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    errno = 0;
    int r = recvmsg(s, &m, flags | MSG_DONTWAIT);
    printf("recvmsg %d %s flags %x namelen %d\n", r, err(r), r < 0 ? 0 : m.msg_flags, r < 0 ? 0 : m.msg_namelen);
    if (r < 0) return;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        printf("  level %d type %d len %d:", h->cmsg_level, h->cmsg_type, (int)h->cmsg_len);
        if (!(h->cmsg_level == 0 && h->cmsg_type == IP_ORIGDSTADDR))
            for (unsigned i = 0; i < h->cmsg_len - CMSG_LEN(0); i++) printf(" %02x", CMSG_DATA(h)[i]);
        printf("\n");
    }
}
int main(void) {
    char b[70000];
    int s = socket(AF_INET, SOCK_DGRAM, 0), c = socket(AF_INET, SOCK_DGRAM, 0), on = 1;
    events("fresh", c);
    SHOW(send(c, "x", 1, 0));
    SHOW(recv(c, b, 1, MSG_DONTWAIT));
    name4("unbound", c, 0, 0);
    int port = bound(s, "127.0.0.1");
    struct sockaddr_in a = in4("127.0.0.1", port), from;
    SHOW(sendto(c, "hello", 5, 0, (void *)&a, sizeof a));
    SHOW(sendto(c, "hello", 5, 0, (void *)&a, 10));
    a.sin_port = 0;
    SHOW(sendto(c, "hello", 5, 0, (void *)&a, sizeof a));
    a = in4("127.0.0.1", port);
    a.sin_family = 99;
    SHOW(sendto(c, "hello", 5, 0, (void *)&a, sizeof a));
    a = in4("127.0.0.1", port);
    name4("autobound", c, 0, -1);
    events("has one", s);
    socklen_t n = sizeof from;
    SHOW(recvfrom(s, b, 3, MSG_PEEK, (void *)&from, &n));
    SHOW(recvfrom(s, b, 3, MSG_PEEK | MSG_TRUNC, (void *)&from, &n));
    SHOW(recvfrom(s, b, 3, 0, (void *)&from, &n));
    SHOW(recv(s, b, 3, MSG_DONTWAIT));
    SHOW(sendto(s, "", 0, 0, (void *)&from, n));
    SHOW(recv(c, b, 3, 0));
    SHOW(sendto(c, b, 65507, 0, (void *)&a, sizeof a));
    SHOW(sendto(c, b, 65508, 0, (void *)&a, sizeof a));
    SHOW(recv(s, b, 70000, 0));
    SHOW(connect(c, (void *)&a, sizeof a));
    name4("connected", c, 0, -1);
    SHOW(send(c, "1", 1, 0));
    SHOW(sendto(c, "2", 1, 0, (void *)&a, sizeof a));
    int other = socket(AF_INET, SOCK_DGRAM, 0);
    n = sizeof from;
    getsockname(c, (void *)&from, &n);
    SHOW(sendto(other, "stranger", 8, 0, (void *)&from, n));
    SHOW(recv(c, b, 10, MSG_DONTWAIT));
    /* refused */
    close(s);
    SHOW(send(c, "3", 1, 0));
    usleep(1000);
    events("refused", c);
    SHOW(send(c, "4", 1, 0));
    SHOW(send(c, "5", 1, 0));
    usleep(1000);
    SHOW(recv(c, b, 10, 0));
    SHOW(sendto(other, "x", 1, 0, (void *)&a, sizeof a));
    SHOW(recv(other, b, 1, MSG_DONTWAIT));
    SHOW(setsockopt(other, IPPROTO_IP, IP_RECVERR, &on, 4));
    SHOW(sendto(other, "lost", 4, 0, (void *)&a, sizeof a));
    usleep(1000);
    events("error queued", other);
    cmsgs(other, MSG_ERRQUEUE);
    SHOW(recv(other, b, 1, MSG_DONTWAIT));
    cmsgs(other, MSG_ERRQUEUE);
    /* disconnect */
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    SHOW(connect(c, &none, sizeof none));
    name4("disconnected", c, 1, 0);
    SHOW(send(c, "x", 1, 0));
    SHOW(shutdown(c, SHUT_RDWR));
    /* control messages */
    s = socket(AF_INET, SOCK_DGRAM, 0);
    port = bound(s, "0.0.0.0");
    a = in4("127.0.0.1", port);
    setsockopt(s, IPPROTO_IP, IP_PKTINFO, &on, 4);
    setsockopt(s, IPPROTO_IP, IP_RECVTTL, &on, 4);
    setsockopt(s, IPPROTO_IP, IP_RECVTOS, &on, 4);
    setsockopt(s, IPPROTO_IP, IP_RECVORIGDSTADDR, &on, 4);
    sendto(other, "info", 4, 0, (void *)&a, sizeof a);
    cmsgs(s, 0);
    int ttl = 7, tos = 0x10;
    setsockopt(other, IPPROTO_IP, IP_TTL, &ttl, 4);
    setsockopt(other, IPPROTO_IP, IP_TOS, &tos, 4);
    a = in4("127.9.9.9", port);
    sendto(other, "info", 4, 0, (void *)&a, sizeof a);
    cmsgs(s, 0);
    int six = socket(AF_INET6, SOCK_DGRAM, 0);
    struct sockaddr_in6 a6 = in6("::1", 0);
    bind(six, (void *)&a6, sizeof a6);
    n = sizeof a6;
    getsockname(six, (void *)&a6, &n);
    setsockopt(six, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, 4);
    setsockopt(six, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, &on, 4);
    setsockopt(six, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, 4);
    int out6 = socket(AF_INET6, SOCK_DGRAM, 0);
    SHOW(sendto(out6, "six", 3, 0, (void *)&a6, n));
    cmsgs(six, 0);
    /* beyond */
    a = in4("255.255.255.255", 9);
    SHOW(sendto(other, "x", 1, 0, (void *)&a, sizeof a));
    SHOW(connect(other, (void *)&a, sizeof a));
    /* segments */
    int seg = 4;
    a = in4("127.0.0.1", port);
    SHOW(setsockopt(other, IPPROTO_UDP, 103, &seg, 4));
    SHOW(sendto(other, "aaaabbbbcc", 10, 0, (void *)&a, sizeof a));
    SHOW(recv(s, b, 20, 0));
    SHOW(recv(s, b, 20, 0));
    SHOW(recv(s, b, 20, 0));
    /* cork */
    seg = 0;
    setsockopt(other, IPPROTO_UDP, 103, &seg, 4);
    SHOW(sendto(other, "one", 3, MSG_MORE, (void *)&a, sizeof a));
    SHOW(sendto(other, "two", 3, 0, (void *)&a, sizeof a));
    SHOW(recv(s, b, 20, 0));
    return 0;
}
