#include "inet_common.h"
#include <netinet/tcp.h>
/* TCP_DEFER_ACCEPT: a connection is accepted once data has come. */
int main(void) {
    int port, l = listening(&port), v = 2, s;
    socklen_t n = sizeof v;
    SHOW(setsockopt(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, &v, sizeof v));
    getsockopt(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, &v, &n); printf("value %d\n", v);
    fcntl(l, F_SETFL, O_NONBLOCK);
    struct sockaddr_in a = in4("127.0.0.1", port);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(connect(c, (void *)&a, sizeof a));
    events("listener", l);
    s = accept(l, 0, 0);
    printf("accept %s\n", s < 0 ? strerror(errno) : "ok");
    events("client", c);
    SHOW(send(c, "x", 1, 0));
    usleep(2000);
    events("listener", l);
    s = accept(l, 0, 0);
    printf("accept %s\n", s < 0 ? strerror(errno) : "ok");
    char b[10];
    SHOW(recv(s, b, 10, 0));
    close(s); close(c);
    c = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(connect(c, (void *)&a, sizeof a));
    shutdown(c, SHUT_WR);
    usleep(2000);
    events("listener after a FIN", l);
    s = accept(l, 0, 0);
    printf("accept %s\n", s < 0 ? strerror(errno) : "ok");
    close(c);
    c = socket(AF_INET, SOCK_STREAM, 0);
    struct linger reset = {1, 0};
    setsockopt(c, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    SHOW(connect(c, (void *)&a, sizeof a));
    close(c);
    events("listener after a reset", l);
    v = 1;
    SHOW(setsockopt(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, &v, sizeof v));
    c = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(connect(c, (void *)&a, sizeof a));
    struct pollfd p = {l, POLLIN};
    SHOW(poll(&p, 1, 5000)); /* after a second, without data */
    SHOW((s = accept4(l, 0, 0, SOCK_NONBLOCK)) > 0);
    SHOW(recv(s, b, 10, 0));
    SHOW(send(s, "y", 1, 0));
    SHOW(recv(c, b, 10, 0));
    close(s); close(c);
    v = 2;
    setsockopt(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, &v, sizeof v);
    c = socket(AF_INET, SOCK_STREAM, 0);
    SHOW(connect(c, (void *)&a, sizeof a));
    close(l);
    usleep(2000);
    events("client of a closed listener", c);
    SHOW(send(c, "x", 1, MSG_NOSIGNAL));
    return 0;
}
