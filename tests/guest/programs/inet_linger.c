#include "inet_common.h"
/* TCP_LINGER2, and the remains of a closed connection whose peer goes on: port, errors, readiness. */
static void look(const char *what, int fd) {
    char b[10]; int e = 0; socklen_t n = sizeof e;
    events(what, fd);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n); printf("%s error %s\n", what, e ? strerrorname_np(e) : "0");
    long r = recv(fd, b, 10, MSG_DONTWAIT); printf("%s recv %ld %s\n", what, r, err(r));
    r = send(fd, "x", 1, MSG_NOSIGNAL); printf("%s send %ld %s\n", what, r, err(r));
    r = send(fd, "x", 1, MSG_NOSIGNAL); printf("%s send %ld %s\n", what, r, err(r));
    r = recv(fd, b, 10, MSG_DONTWAIT); printf("%s recv %ld %s\n", what, r, err(r));
    struct tcp_info i; n = sizeof i; getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n); printf("state %d\n", i.tcpi_state);
    events(what, fd);
}
int main(void) {
    int vals[] = {0, 1, 60, 200};
    for (int i = 0; i < 4; i++) for (int mode = 0; mode < 5; mode++) {
        int s[2]; tcp_pair(s);
        int v = vals[i]; setsockopt(s[0], IPPROTO_TCP, TCP_LINGER2, &v, 4);
        socklen_t n = 4; int g; getsockopt(s[0], IPPROTO_TCP, TCP_LINGER2, &g, &n);
        printf("--- %d mode %d: shows %d\n", v, mode, g);
        if (mode == 1) send(s[0], "ab", 2, 0);
        if (mode == 2) send(s[1], "ab", 2, 0);
        if (mode == 3) shutdown(s[0], SHUT_WR);
        if (mode == 4) shutdown(s[1], SHUT_WR);
        usleep(1000);
        struct sockaddr_in a; n = sizeof a; getsockname(s[0], (void*)&a, &n);
        close(s[0]); usleep(2000);
        int b = socket(AF_INET, SOCK_STREAM, 0); int r = bind(b, (void*)&a, sizeof a); printf("bind %s\n", err(r)); close(b);
        look("peer", s[1]);
        close(s[1]);
        usleep(1000);
        b = socket(AF_INET, SOCK_STREAM, 0); r = bind(b, (void*)&a, sizeof a); printf("bind %s\n", err(r)); close(b);
    }
    int v = -5, s[2];
    tcp_pair(s);
    SHOW(setsockopt(s[0], IPPROTO_TCP, TCP_LINGER2, &v, 4));
    socklen_t n = 4;
    SHOW(getsockopt(s[0], IPPROTO_TCP, TCP_LINGER2, &v, &n));
    printf("%d\n", v);
    close(s[0]);
    char c;
    do v = recv(s[1], &c, 1, MSG_PEEK | MSG_DONTWAIT); while (v < 0 && errno == EAGAIN);
    struct pollfd p = {s[1], 0}; /* the reset comes once the FIN is acknowledged */
    poll(&p, 1, 1000);
    printf("%d\n", p.revents);
    return 0;
}
