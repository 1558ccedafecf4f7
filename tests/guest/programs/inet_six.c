#include "inet_common.h"
/* IPv6: loopback, dual stack, v4-mapped addresses as each end sees them. */
int main(void) {
    int l = socket(AF_INET6, SOCK_STREAM, 0), off = 0, on = 1, v;
    socklen_t n = 4;
    getsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &v, &n);
    printf("only %d\n", v);
    struct sockaddr_in6 b = in6("::", 0);
    SHOW(bind(l, (void *)&b, sizeof b));
    n = sizeof b;
    getsockname(l, (void *)&b, &n);
    int port = ntohs(b.sin6_port);
    SHOW(listen(l, 8));
    const char *four[] = {"127.0.0.1", "127.1.2.3", "0.0.0.0"};
    for (int i = 0; i < 3; i++) {
        int c = socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in a = in4(four[i], port);
        SHOW(connect(c, (void *)&a, sizeof a));
        int s = accept(l, 0, 0);
        name4("client", c, 0, -1); name4("client peer", c, 1, port);
        name4("server", s, 0, port); name4("server peer", s, 1, -1);
        close(c); close(s);
    }
    const char *six[] = {"::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"};
    for (int i = 0; i < 4; i++) {
        int c = socket(AF_INET6, SOCK_STREAM, 0);
        b = in6(six[i], port);
        SHOW(connect(c, (void *)&b, sizeof b));
        int s = accept(l, 0, 0);
        name4("client", c, 0, -1); name4("client peer", c, 1, port);
        name4("server", s, 0, port); name4("server peer", s, 1, -1);
        write(c, "abc", 3);
        char buf[8];
        SHOW(read(s, buf, 8));
        close(c); close(s);
    }
    int c = socket(AF_INET6, SOCK_STREAM, 0);
    setsockopt(c, IPPROTO_IPV6, IPV6_V6ONLY, &on, 4);
    b = in6("::ffff:127.0.0.1", port);
    SHOW(connect(c, (void *)&b, sizeof b));
    struct sockaddr_in a = in4("127.0.0.1", port);
    SHOW(connect(c, (void *)&a, sizeof a));
    int u = socket(AF_INET6, SOCK_DGRAM, 0), w = socket(AF_INET, SOCK_DGRAM, 0);
    b = in6("::", 0);
    bind(u, (void *)&b, sizeof b);
    n = sizeof b;
    getsockname(u, (void *)&b, &n);
    port = ntohs(b.sin6_port);
    a = in4("127.0.0.1", port);
    SHOW(sendto(w, "dgram", 5, 0, (void *)&a, sizeof a));
    char buf[64], text[64];
    struct sockaddr_in6 from;
    n = sizeof from;
    SHOW(recvfrom(u, buf, sizeof buf, 0, (void *)&from, &n));
    printf("from %s len %d\n", inet_ntop(AF_INET6, &from.sin6_addr, text, sizeof text), (int)n);
    SHOW(sendto(u, "back", 4, 0, (void *)&from, n));
    SHOW(recv(w, buf, sizeof buf, 0));
    SHOW(connect(u, (void *)&a, sizeof a));
    name4("u peer", u, 1, port);
    name4("u own", u, 0, port);
    int e = socket(AF_INET6, SOCK_DGRAM, 0);
    b = in6("2001:db8::7", 9);
    b = in6("::1", port);
    SHOW(connect(e, (void *)&b, sizeof b));
    b = in6("::1", 9);
    SHOW(connect(e, (void *)&b, 20));
    return 0;
}
