#include "inet_common.h"
#include <linux/errqueue.h>
/* MSG_ZEROCOPY and its notifications. */
static void note(int fd, const char *what) {
    char data[100], control[512];
    struct iovec v = {data, sizeof data};
    struct msghdr m = {0, 0, &v, 1, control, sizeof control};
    int r = recvmsg(fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT);
    printf("%s: %s", what, r < 0 ? strerror(errno) : "");
    if (r >= 0) {
        printf("%d flags %#x", r, m.msg_flags);
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
            struct sock_extended_err *e = (void *)CMSG_DATA(c);
            printf(" [%d %d: errno %d origin %d type %d code %d info %d data %d]", c->cmsg_level, c->cmsg_type, e->ee_errno,
                   e->ee_origin, e->ee_type, e->ee_code, e->ee_info, e->ee_data);
        }
    }
    puts("");
}
int main(void) {
    static char b[200000];
    int p[2], on = 1;
    tcp_pair(p);
    SHOW(send(p[0], b, 100, MSG_ZEROCOPY));
    note(p[0], "without the option");
    SHOW(setsockopt(p[0], SOL_SOCKET, SO_ZEROCOPY, &on, 4));
    SHOW(send(p[0], b, 1000, MSG_ZEROCOPY));
    SHOW(recv(p[1], b, sizeof b, 0));
    usleep(20000);
    events("sent", p[0]);
    note(p[0], "one");
    note(p[0], "none");
    SHOW(send(p[0], b, 1000, MSG_ZEROCOPY));
    SHOW(send(p[0], b, 1000, MSG_ZEROCOPY));
    SHOW(send(p[0], b, 1000, 0));
    usleep(1000);
    SHOW(recv(p[1], b, 3000, MSG_WAITALL));
    usleep(20000);
    note(p[0], "two");
    note(p[0], "none");
    int e = -1; socklen_t n = 4;
    SHOW(getsockopt(p[0], SOL_SOCKET, SO_ZEROCOPY, &e, &n)); printf("%d\n", e);
    e = 2;
    SHOW(setsockopt(p[0], SOL_SOCKET, SO_ZEROCOPY, &e, 4));
    close(p[0]); close(p[1]);
    int u = socket(AF_INET, SOCK_DGRAM, 0), a = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = in4("127.0.0.1", bound(a, "127.0.0.1"));
    SHOW(setsockopt(u, SOL_SOCKET, SO_ZEROCOPY, &on, 4));
    SHOW(sendto(u, b, 500, MSG_ZEROCOPY, (void *)&to, sizeof to));
    SHOW(recv(a, b, sizeof b, 0));
    usleep(10000);
    note(u, "udp");
    socketpair(AF_UNIX, SOCK_STREAM, 0, p);
    SHOW(setsockopt(p[0], SOL_SOCKET, SO_ZEROCOPY, &on, 4));
    SHOW(send(p[0], b, 10, MSG_ZEROCOPY));
    return 0;
}
