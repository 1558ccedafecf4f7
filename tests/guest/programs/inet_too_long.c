/* Datagrams that are too long: for each MTU_DISCOVER, with and without RECVERR, the entries of the error queue. */
#include "inet_common.h"
#include <linux/errqueue.h>
static void errq(int fd) {
    char b[200], c[512]; struct sockaddr_in6 a; memset(&a, 0, sizeof a);
    for (int k = 0; k < 3; k++) {
    struct iovec v = {b, sizeof b};
    struct msghdr m = {.msg_name = &a, .msg_namelen = sizeof a, .msg_iov = &v, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    errno = 0;
    long n = recvmsg(fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT);
    printf("  errqueue %ld %s", n, err(n)); if (n < 0) { printf("\n"); break; }
    printf(" flags %x namelen %d fam %d port0 %d", m.msg_flags, m.msg_namelen, a.sin6_family, a.sin6_port == 0);
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        struct sock_extended_err *e = (void*)CMSG_DATA(h);
        printf(" [%d.%d len %d: errno %s origin %d type %d code %d info %u data %u off %d]", h->cmsg_level, h->cmsg_type, (int)h->cmsg_len, strerrorname_np(e->ee_errno), e->ee_origin, e->ee_type, e->ee_code, e->ee_info, e->ee_data, ((struct sockaddr*)(e+1))->sa_family);
    }
    printf("\n"); }
}
int main(void) {
    static char big[70000], b0[70000];
    for (int v6 = 0; v6 < 2; v6++) for (int conn = 0; conn < 2; conn++) for (int rx = 0; rx < 2; rx++) for (int disc = -1; disc < 6; disc++) for (int raw = 0; raw < 2; raw++) {
        int u = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0); struct sockaddr_in a = in4("127.0.0.1", 0); struct sockaddr_in6 b = in6("::1", 0); struct sockaddr *p = v6 ? (void*)&b : (void*)&a; socklen_t n = v6 ? sizeof b : sizeof a;
        bind(u, p, n); getsockname(u, p, &n);
        if (raw) { b.sin6_port = 0; a.sin_port = 0; }
        int s = raw ? socket(v6 ? AF_INET6 : AF_INET, SOCK_RAW, 200) : socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0);
        int one = 1; if (rx) setsockopt(s, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_RECVERR : IP_RECVERR, &one, 4);
        if (disc >= 0) { int r = setsockopt(s, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER, &disc, 4); if (r) printf("disc %s\n", err(r)); }
        if (conn) connect(s, p, n);
        printf("v6 %d conn %d recverr %d disc %d raw %d\n", v6, conn, rx, disc, raw);
        int sizes[] = {65507, 65508, 65515, 65516, 65527, 65528, 65535, 65536, 66000};
        for (int i = 0; i < 9; i++) {
          errno = 0; long r = conn ? send(s, big, sizes[i], 0) : sendto(s, big, sizes[i], 0, p, n), e0 = errno; while (recv(s, b0, sizeof b0, MSG_DONTWAIT) > 0) ;
          errno = e0;
          printf(" %d: %ld %s", sizes[i], r, err(r));
          if (r < 0) { struct pollfd q = {s, POLLIN}; poll(&q, 1, 0); int e = 0; socklen_t l = 4; printf(" poll %x\n", q.revents); errq(s); getsockopt(s, SOL_SOCKET, SO_ERROR, &e, &l); printf("  so_error %d\n", e); } else printf("\n"); }
        close(s); close(u);
    }
}
