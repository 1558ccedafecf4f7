/* Helpers of the programs about IP sockets. */
#include "unix_common.h"

static __attribute__((unused)) struct sockaddr_in in4(const char *addr, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, addr, &a.sin_addr);
    return a;
}

static __attribute__((unused)) struct sockaddr_in6 in6(const char *addr, int port) {
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    inet_pton(AF_INET6, addr, &a.sin6_addr);
    return a;
}

/* Bind to a port of the kernel's choice; the port. */
static __attribute__((unused)) int bound(int fd, const char *addr) {
    struct sockaddr_in a = in4(addr, 0);
    socklen_t n = sizeof a;
    if (bind(fd, (void *)&a, sizeof a) < 0) return -1;
    getsockname(fd, (void *)&a, &n);
    return ntohs(a.sin_port);
}

static __attribute__((unused)) int listening(int *port) {
    int l = socket(AF_INET, SOCK_STREAM, 0);
    *port = bound(l, "127.0.0.1");
    listen(l, 8);
    return l;
}

/* A connected pair of TCP sockets. */
static __attribute__((unused)) void tcp_pair(int s[2]) {
    int port, l = listening(&port);
    struct sockaddr_in a = in4("127.0.0.1", port);
    s[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(s[0], (void *)&a, sizeof a) < 0) perror("connect");
    s[1] = accept(l, 0, 0);
    close(l);
}

static __attribute__((unused)) void name4(const char *what, int fd, int peer, int port) {
    struct sockaddr_storage s;
    socklen_t n = sizeof s;
    char b[64] = "";
    errno = 0;
    int r = peer ? getpeername(fd, (void *)&s, &n) : getsockname(fd, (void *)&s, &n);
    if (r < 0) { printf("%s: %s\n", what, err(r)); return; }
    int p;
    if (s.ss_family == AF_INET) { struct sockaddr_in *a = (void *)&s; inet_ntop(AF_INET, &a->sin_addr, b, sizeof b); p = ntohs(a->sin_port); }
    else { struct sockaddr_in6 *a = (void *)&s; inet_ntop(AF_INET6, &a->sin6_addr, b, sizeof b); p = ntohs(a->sin6_port); }
    printf("%s: family %d len %d %s port %s\n", what, s.ss_family, (int)n, b, p == 0 ? "0" : p == port ? "same" : "other");
}
