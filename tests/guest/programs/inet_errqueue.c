#include "inet_common.h"
#include <linux/errqueue.h>
/* IP_RECVERR: the queue of errors of UDP. */
static void queue(int fd, const char *what) {
    char data[100], control[512];
    struct sockaddr_storage from;
    memset(&from, 0, sizeof from);
    struct iovec v = {data, sizeof data};
    struct msghdr m = {&from, sizeof from, &v, 1, control, sizeof control};
    int r = recvmsg(fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT);
    printf("%s: %s", what, r < 0 ? strerror(errno) : "");
    if (r >= 0) {
        printf("%d \"%.*s\" flags %#x family %d namelen %d", r, r, data, m.msg_flags, from.ss_family, m.msg_namelen);
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
            struct sock_extended_err *e = (void *)CMSG_DATA(c);
            struct sockaddr *o = SO_EE_OFFENDER(e);
            printf(" [%d %d len %d: errno %d origin %d type %d code %d info %d data %d offender %d]", c->cmsg_level, c->cmsg_type,
                   (int)c->cmsg_len, e->ee_errno, e->ee_origin, e->ee_type, e->ee_code, e->ee_info, e->ee_data, o->sa_family);
        }
    }
    puts("");
}
static void family(int domain, const char *addr) {
    int on = 1;
    struct sockaddr_storage to;
    socklen_t size;
    int probe = socket(domain, SOCK_DGRAM, 0), s = socket(domain, SOCK_DGRAM, 0);
    if (domain == AF_INET) { struct sockaddr_in a = in4(addr, 0); memcpy(&to, &a, size = sizeof a); }
    else { struct sockaddr_in6 a = in6(addr, 0); memcpy(&to, &a, size = sizeof a); }
    bind(probe, (void *)&to, size);
    getsockname(probe, (void *)&to, &size);
    close(probe); /* no socket has the port now */
    if (domain == AF_INET) SHOW(setsockopt(s, IPPROTO_IP, IP_RECVERR, &on, 4));
    else SHOW(setsockopt(s, IPPROTO_IPV6, IPV6_RECVERR, &on, 4));
    queue(s, "empty");
    SHOW(sendto(s, "lost", 4, 0, (void *)&to, size));
    usleep(1000);
    events("after", s);
    SHOW(sendto(s, "next", 4, 0, (void *)&to, size));
    usleep(1000);
    queue(s, "first");
    events("then", s);
    int e = -1; socklen_t n = 4;
    getsockopt(s, SOL_SOCKET, SO_ERROR, &e, &n); printf("SO_ERROR %d\n", e);
    queue(s, "second");
    queue(s, "third");
    events("last", s);
    char b[10];
    SHOW(recv(s, b, 10, MSG_DONTWAIT));
    SHOW(connect(s, (void *)&to, size));
    SHOW(send(s, "again", 5, 0));
    usleep(1000);
    SHOW(recv(s, b, 10, MSG_DONTWAIT));
    SHOW(recv(s, b, 10, MSG_DONTWAIT));
    queue(s, "connected");
    if (domain == AF_INET) { on = 0; SHOW(setsockopt(s, IPPROTO_IP, IP_RECVERR, &on, 4)); }
    SHOW(send(s, "off", 3, 0));
    usleep(1000);
    queue(s, "off");
    SHOW(send(s, "off", 3, 0));
    close(s);
    int t = socket(domain, SOCK_DGRAM, 0); /* without the option and unconnected there is no error */
    SHOW(sendto(t, "x", 1, 0, (void *)&to, size));
    usleep(1000);
    SHOW(sendto(t, "x", 1, 0, (void *)&to, size));
    static char big[70000];
    on = 1;
    setsockopt(t, IPPROTO_IP, IP_RECVERR, &on, 4);
    SHOW(sendto(t, big, 70000, 0, (void *)&to, size));
    close(t);
}
int main(void) {
    family(AF_INET, "127.0.0.1");
    family(AF_INET6, "::1");
    return 0;
}
