#include "inet_common.h"
/* Who may bind where: SO_REUSEADDR, SO_REUSEPORT, wildcards, IPv6, TIME_WAIT, privileged ports. */
static void t(int type, int f1, const char *a1, int r1, int p1, int l1, int f2, const char *a2, int r2, int p2) {
    int x = socket(f1, type, 0), y = socket(f2, type, 0), port;
    setsockopt(x, SOL_SOCKET, SO_REUSEADDR, &r1, 4);
    setsockopt(y, SOL_SOCKET, SO_REUSEADDR, &r2, 4);
    setsockopt(x, SOL_SOCKET, SO_REUSEPORT, &p1, 4);
    setsockopt(y, SOL_SOCKET, SO_REUSEPORT, &p2, 4);
    int only = a1[0] == '!'; if (only) { a1++; setsockopt(x, IPPROTO_IPV6, IPV6_V6ONLY, &only, 4); }
    struct sockaddr_storage s; socklen_t n = sizeof s;
    if (f1 == AF_INET) { struct sockaddr_in a = in4(a1, 0); bind(x, (void *)&a, sizeof a); }
    else { struct sockaddr_in6 a = in6(a1, 0); bind(x, (void *)&a, sizeof a); }
    getsockname(x, (void *)&s, &n);
    port = ntohs(((struct sockaddr_in *)&s)->sin_port);
    if (l1) listen(x, 1);
    int r;
    errno = 0;
    if (f2 == AF_INET) { struct sockaddr_in a = in4(a2, port); r = bind(y, (void *)&a, sizeof a); }
    else { struct sockaddr_in6 a = in6(a2, port); r = bind(y, (void *)&a, sizeof a); }
    printf("%d: %s%s%s%s%s then %s%s%s: %s", type, only ? "!" : "", a1, r1 ? " reuse" : "", p1 ? " port" : "", l1 ? " listen" : "", a2, r2 ? " reuse" : "", p2 ? " port" : "", err(r));
    if (r == 0 && type == SOCK_STREAM) { errno = 0; r = listen(y, 1); printf(", listen: %s", err(r)); }
    printf("\n");
    close(x); close(y);
}
int main(void) {
    int types[] = {SOCK_STREAM, SOCK_DGRAM};
    const char *fours[] = {"0.0.0.0", "127.0.0.1", "127.0.0.2"};
    const char *sixes[] = {"::", "!::", "::1", "::ffff:127.0.0.1"};
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++)
                for (int m = 0; m < 8; m++)
                    t(types[k], AF_INET, fours[i], m & 1, 0, k == 0 && m & 4, AF_INET, fours[j], m >> 1 & 1, 0);
        for (int i = 0; i < 4; i++) {
            for (int j = 0; j < 3; j++) t(types[k], AF_INET6, sixes[i], 0, 0, 0, AF_INET, fours[j], 0, 0);
            for (int j = 0; j < 4; j++) if (sixes[j][0] != '!') t(types[k], AF_INET6, sixes[i], 0, 0, 0, AF_INET6, sixes[j], 0, 0);
        }
        t(types[k], AF_INET, "127.0.0.1", 0, 1, k == 0, AF_INET, "127.0.0.1", 0, 1);
        t(types[k], AF_INET, "127.0.0.1", 0, 1, k == 0, AF_INET, "127.0.0.1", 0, 0);
        t(types[k], AF_INET, "127.0.0.1", 0, 0, k == 0, AF_INET, "127.0.0.1", 0, 1);
        t(types[k], AF_INET, "127.0.0.1", 1, 0, k == 0, AF_INET, "127.0.0.1", 0, 1);
        t(types[k], AF_INET, "0.0.0.0", 1, 1, k == 0, AF_INET, "127.0.0.1", 1, 1);
    }
    /* TIME_WAIT on the server's side */
    int port, l = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    port = bound(l, "127.0.0.1");
    listen(l, 3);
    struct sockaddr_in a = in4("127.0.0.1", port);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    connect(c, (void *)&a, sizeof a);
    int s = accept(l, 0, 0);
    close(l);
    int y = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(bind(y, (void *)&a, sizeof a));
    close(s);
    close(c);
    usleep(1000);
    SHOW(bind(y, (void *)&a, sizeof a));
    SHOW(setsockopt(y, SOL_SOCKET, SO_REUSEADDR, &on, 4));
    SHOW(bind(y, (void *)&a, sizeof a));
    /* the same, all with SO_REUSEADDR */
    l = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, 4);
    port = bound(l, "127.0.0.1");
    listen(l, 3);
    a = in4("127.0.0.1", port);
    c = socket(AF_INET, SOCK_STREAM, 0);
    connect(c, (void *)&a, sizeof a);
    s = accept(l, 0, 0);
    y = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(y, SOL_SOCKET, SO_REUSEADDR, &on, 4);
    SHOW(bind(y, (void *)&a, sizeof a));
    close(l);
    SHOW(bind(y, (void *)&a, sizeof a));
    SHOW(listen(y, 1));
    close(s);
    close(c);
    /* closed by the client first */
    l = listening(&port);
    a = in4("127.0.0.1", port);
    c = socket(AF_INET, SOCK_STREAM, 0);
    connect(c, (void *)&a, sizeof a);
    s = accept(l, 0, 0);
    close(l);
    close(c);
    usleep(1000);
    close(s);
    usleep(1000);
    y = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(bind(y, (void *)&a, sizeof a));
    SHOW(bind(y, (void *)&a, sizeof a));
    if (getuid() != 0) { a = in4("127.0.0.1", 80); y = socket(AF_INET, SOCK_STREAM, 0); SHOW(bind(y, (void *)&a, sizeof a)); }
    y = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 b = in6("::1", 0);
    SHOW(bind(y, (void *)&b, 20));
    SHOW(bind(y, (void *)&b, 24));
    SHOW(setsockopt(y, IPPROTO_IPV6, IPV6_V6ONLY, &on, 4));
    b = in6("2001:db8::1", 0);
    int z = socket(AF_INET6, SOCK_STREAM, 0);
    SHOW(bind(z, (void *)&b, sizeof b));
    SHOW(bind(z, (void *)&a, sizeof a));
    setsockopt(z, IPPROTO_IPV6, IPV6_V6ONLY, &on, 4);
    b = in6("::ffff:127.0.0.1", 0);
    SHOW(bind(z, (void *)&b, sizeof b));
    return 0;
}
