/* Control messages that a sender gives, good ones and bad ones, for each kind of socket, as root and as nobody. */
#include "inet_common.h"
#include <linux/netlink.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>

struct message { int level, type, length, value; };
static const struct message table[] = {
    {SOL_SOCKET, SCM_RIGHTS, 4, 0}, {SOL_SOCKET, SCM_RIGHTS, 4, -1}, {SOL_SOCKET, SCM_RIGHTS, 4, 999}, {SOL_SOCKET, SCM_RIGHTS, 0, 0},
    {SOL_SOCKET, SCM_RIGHTS, 3, 0}, {SOL_SOCKET, SCM_CREDENTIALS, 4, 0}, {SOL_SOCKET, SCM_CREDENTIALS, 8, -1},
    {SOL_SOCKET, SO_MARK, 4, 7}, {SOL_SOCKET, SO_MARK, 3, 7}, {SOL_SOCKET, SO_MARK, 8, 7},
    {SOL_SOCKET, SO_PRIORITY, 4, 5}, {SOL_SOCKET, SO_PRIORITY, 4, 7}, {SOL_SOCKET, SO_PRIORITY, 4, -1}, {SOL_SOCKET, SO_PRIORITY, 3, 7}, {SOL_SOCKET, SO_PRIORITY, 8, 7},
    {SOL_SOCKET, SO_TIMESTAMPING, 4, 0}, {SOL_SOCKET, SO_TIMESTAMPING, 4, 1}, {SOL_SOCKET, SO_TIMESTAMPING, 4, 4}, {SOL_SOCKET, SO_TIMESTAMPING, 8, 0}, {SOL_SOCKET, SO_TIMESTAMPING, 4, 2}, {SOL_SOCKET, SO_TIMESTAMPING, 4, 0x10000},
    {SOL_SOCKET, 65, 4, 0}, {SOL_SOCKET, SO_TXTIME, 8, 0}, {SOL_SOCKET, SO_TXTIME, 4, 0}, {SOL_SOCKET, 81, 4, 0}, {SOL_SOCKET, 99, 4, 0}, {SOL_SOCKET, 4, 4, 0},
    {SOL_SOCKET, SO_TIMESTAMP, 4, 0},
    {SOL_IP, IP_TTL, 4, 9}, {SOL_IP, IP_TTL, 4, 0}, {SOL_IP, IP_TTL, 4, 256}, {SOL_IP, IP_TTL, 1, 9}, {SOL_IP, IP_TTL, 8, 9},
    {SOL_IP, IP_TOS, 4, 8}, {SOL_IP, IP_TOS, 1, 8}, {SOL_IP, IP_TOS, 2, 8}, {SOL_IP, IP_TOS, 4, 256}, {SOL_IP, IP_TOS, 4, -1}, {SOL_IP, IP_TOS, 0, 0}, {SOL_IP, IP_TOS, 8, 0},
    {SOL_IP, IP_PKTINFO, 12, 0}, {SOL_IP, IP_PKTINFO, 12, 1}, {SOL_IP, IP_PKTINFO, 12, 77}, {SOL_IP, IP_PKTINFO, 8, 0}, {SOL_IP, IP_PKTINFO, 16, 0},
    {SOL_IP, IP_RETOPTS, 0, 0}, {SOL_IP, IP_RETOPTS, 4, 0x01010101}, {SOL_IP, IP_RETOPTS, 4, 0xFFFF}, {SOL_IP, IP_PROTOCOL, 4, 17}, {SOL_IP, IP_PROTOCOL, 4, 0}, {SOL_IP, IP_PROTOCOL, 1, 17}, {SOL_IP, 99, 4, 0}, {SOL_IP, IP_RECVERR, 4, 0},
    {SOL_IPV6, IPV6_HOPLIMIT, 4, 9}, {SOL_IPV6, IPV6_HOPLIMIT, 4, -1}, {SOL_IPV6, IPV6_HOPLIMIT, 4, -2}, {SOL_IPV6, IPV6_HOPLIMIT, 4, 256}, {SOL_IPV6, IPV6_HOPLIMIT, 4, 0}, {SOL_IPV6, IPV6_HOPLIMIT, 1, 9}, {SOL_IPV6, IPV6_HOPLIMIT, 8, 9},
    {SOL_IPV6, IPV6_TCLASS, 4, 9}, {SOL_IPV6, IPV6_TCLASS, 4, -1}, {SOL_IPV6, IPV6_TCLASS, 4, -2}, {SOL_IPV6, IPV6_TCLASS, 4, 256}, {SOL_IPV6, IPV6_TCLASS, 1, 9},
    {SOL_IPV6, IPV6_PKTINFO, 20, 0}, {SOL_IPV6, IPV6_PKTINFO, 20, 1}, {SOL_IPV6, IPV6_PKTINFO, 20, 77}, {SOL_IPV6, IPV6_PKTINFO, 12, 0}, {SOL_IPV6, IPV6_PKTINFO, 24, 0},
    {SOL_IPV6, IPV6_DONTFRAG, 4, 1}, {SOL_IPV6, IPV6_DONTFRAG, 4, 2}, {SOL_IPV6, IPV6_DONTFRAG, 1, 1}, {SOL_IPV6, 11, 4, 0}, {SOL_IPV6, 11, 2, 0}, {SOL_IPV6, 99, 4, 0}, {SOL_IPV6, IPV6_RECVERR, 4, 0},
    {17, 103, 2, 1}, {17, 103, 4, 1}, {17, 103, 1, 1}, {17, 103, 2, 0}, {17, 99, 2, 1}, {SOL_TCP, 1, 4, 1}, {99, 1, 4, 1}, {SOL_PACKET, 1, 4, 1}, {SOL_NETLINK, 1, 4, 1},
};

static const char *names[] = {"tcp", "tcp6", "udp", "udp6", "mapped udp", "raw", "raw6", "packet", "unix stream", "unix dgram", "netlink", "alone tcp", "alone udp", "ping"};

static int make(int kind, int *other) {
    int s = -1, v6 = kind == 1 || kind == 3 || kind == 4;
    struct sockaddr_in a = in4("127.0.0.1", 0);
    struct sockaddr_in6 b = in6(kind == 4 ? "::ffff:127.0.0.1" : "::1", 0);
    struct sockaddr *p = v6 ? (void *)&b : (void *)&a;
    socklen_t n = v6 ? sizeof b : sizeof a;
    *other = -1;
    if (kind < 5) {
        int type = kind < 2 ? SOCK_STREAM : SOCK_DGRAM, l = socket(p->sa_family, type, 0);
        bind(l, p, n);
        getsockname(l, p, &n);
        if (kind < 2) listen(l, 1);
        s = socket(p->sa_family, type, 0);
        connect(s, p, n);
        *other = kind < 2 ? accept(l, 0, 0) : l;
        if (kind < 2) close(l);
    } else if (kind == 5) {
        s = socket(AF_INET, SOCK_RAW, 200);
        connect(s, (void *)&a, sizeof a);
        *other = socket(AF_INET, SOCK_RAW, 200);
    } else if (kind == 6) {
        b.sin6_port = 0;
        s = socket(AF_INET6, SOCK_RAW, 200);
        connect(s, (void *)&b, sizeof b);
        *other = socket(AF_INET6, SOCK_RAW, 200);
    } else if (kind == 7) {
        struct sockaddr_ll l = {.sll_family = AF_PACKET, .sll_ifindex = 1, .sll_protocol = htons(0x88b5)};
        s = socket(AF_PACKET, SOCK_DGRAM, 0);
        bind(s, (void *)&l, sizeof l);
    } else if (kind < 10) {
        int pair[2];
        socketpair(AF_UNIX, kind == 8 ? SOCK_STREAM : SOCK_DGRAM, 0, pair);
        s = pair[0]; *other = pair[1];
    } else if (kind == 10) {
        struct sockaddr_nl l = {.nl_family = AF_NETLINK};
        socklen_t n = sizeof l;
        *other = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK);
        bind(*other, (void *)&l, n);
        getsockname(*other, (void *)&l, &n);
        s = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK);
        connect(s, (void *)&l, n);
    } else if (kind < 13)
        s = socket(AF_INET, kind == 11 ? SOCK_STREAM : SOCK_DGRAM, 0);
    return s;
}

static void all(const char *who) {
    for (int kind = 0; kind < 13; kind++) {
        for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
            struct message t = table[i];
            int other, s = make(kind, &other);
            if (s < 0) continue;
            char room[200] __attribute__((aligned(8))) = {0}, data[4] = "abc", got[200];
            struct iovec v = {data, 4};
            struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = CMSG_SPACE(t.length)};
            struct cmsghdr *c = CMSG_FIRSTHDR(&m);
            c->cmsg_level = t.level; c->cmsg_type = t.type; c->cmsg_len = CMSG_LEN(t.length);
            memcpy(CMSG_DATA(c) + (t.type == IPV6_PKTINFO && t.level == SOL_IPV6 ? 16 : 0), &t.value, 4);
            long n = sendmsg(s, &m, MSG_NOSIGNAL);
            printf("%s %s %d.%d.%d=%d: %ld %s", who, names[kind], t.level, t.type, t.length, t.value, n, err(n));
            if (other >= 0 && n > 0 && (kind == 2 || kind == 3 || kind == 4)) {
                int on = 1;
                struct msghdr r = {.msg_iov = &(struct iovec){got, sizeof got}, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
                printf(" got %ld", (long)recvmsg(other, &r, MSG_DONTWAIT));
            }
            printf("\n");
            close(s); close(other);
        }
    }
}

/* The message as it arrives. */
static void effect(const char *what, int kind, int level, int option, int sent_level, int sent_type, int sent_length, int value) {
    int other, s = make(kind, &other), on = 1;
    char room[200] __attribute__((aligned(8))) = {0}, data[4] = "abc", got[200];
    struct msghdr m = {.msg_iov = &(struct iovec){data, 4}, .msg_iovlen = 1, .msg_control = room, .msg_controllen = CMSG_SPACE(sent_length)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = sent_level; c->cmsg_type = sent_type; c->cmsg_len = CMSG_LEN(sent_length);
    memcpy(CMSG_DATA(c), &value, 4);
    setsockopt(other, level, option, &on, sizeof on);
    printf("%s: %s", what, err(sendmsg(s, &m, 0)));
    struct msghdr r = {.msg_iov = &(struct iovec){got, sizeof got}, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    recvmsg(other, &r, MSG_DONTWAIT);
    for (c = CMSG_FIRSTHDR(&r); c; c = CMSG_NXTHDR(&r, c)) {
        value = 0;
        memcpy(&value, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0) < 4 ? c->cmsg_len - CMSG_LEN(0) : 4);
        printf(" [%d.%d %d: %d]", c->cmsg_level, c->cmsg_type, (int)(c->cmsg_len - CMSG_LEN(0)), value);
    }
    printf("\n");
    close(s); close(other);
}

/* scm_fds of fdinfo: the files that wait in a queue. */
static void waiting_files(int type) {
    int s[2], files[2] = {0, 1};
    char room[64] __attribute__((aligned(8))) = {0}, text[4096], path[64];
    socketpair(AF_UNIX, type, 0, s);
    struct msghdr m = {.msg_iov = &(struct iovec){"a", 1}, .msg_iovlen = 1, .msg_control = room, .msg_controllen = CMSG_SPACE(8)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET; c->cmsg_type = SCM_RIGHTS; c->cmsg_len = CMSG_LEN(8);
    memcpy(CMSG_DATA(c), files, 8);
    sendmsg(s[0], &m, 0);
    for (int i = 0; i < 3; i++) {
        if (i == 2) recv(s[1], text, 1, 0);
        snprintf(path, sizeof path, "/proc/self/fdinfo/%d", s[i > 0]);
        int f = open(path, O_RDONLY);
        text[read(f, text, sizeof text - 1)] = 0;
        printf("waiting %s", strstr(text, "scm_fds") ?: "none\n");
        close(f);
    }
    close(s[0]); close(s[1]);
}

int main(void) {
    all("root");
    for (int kind = 2; kind < 7; kind++) {
        printf("%s\n", names[kind]);
        int l = kind == 2 || kind == 5 ? SOL_IP : SOL_IPV6;
        effect("mark", kind, SOL_SOCKET, SO_RCVMARK, SOL_SOCKET, SO_MARK, 4, 7);
        effect("priority", kind, SOL_SOCKET, 82, SOL_SOCKET, SO_PRIORITY, 4, 7);
        effect("tos", kind, SOL_IP, IP_RECVTOS, SOL_IP, IP_TOS, 1, 8);
        effect("ttl", kind, SOL_IP, IP_RECVTTL, SOL_IP, IP_TTL, 4, 8);
        effect("class", kind, SOL_IPV6, IPV6_RECVTCLASS, SOL_IPV6, IPV6_TCLASS, 4, 8);
        effect("hops", kind, SOL_IPV6, IPV6_RECVHOPLIMIT, SOL_IPV6, IPV6_HOPLIMIT, 4, 8);
        effect("own class", kind, SOL_IPV6, IPV6_RECVTCLASS, SOL_IPV6, IPV6_TCLASS, 4, -1);
        effect("own hops", kind, SOL_IPV6, IPV6_RECVHOPLIMIT, SOL_IPV6, IPV6_HOPLIMIT, 4, -1);
    }
    setgid(65534);
    setuid(65534);
    all("nobody");
    waiting_files(SOCK_STREAM);
    waiting_files(SOCK_DGRAM);
    return 0;
}
