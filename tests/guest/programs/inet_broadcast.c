/* Broadcast addresses: permissions, source addresses, receivers. */
#include "inet_common.h"
#include <net/if.h>
int main(void) {
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int one = 1;
    unshare(CLONE_NEWUSER | CLONE_NEWNET);
    SHOW(ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCSIFFLAGS, &lo));
    const char *addrs[] = {"255.255.255.255", "127.255.255.255", "127.0.0.1", "127.0.0.0", "10.255.255.255", "0.0.0.0", "127.1.255.255"};
    for (int dev = 0; dev < 3; dev++)
    for (int b = 0; b < 2; b++) for (int t = 0; t < 3; t++) for (int i = 0; i < 7; i++) {
        if (!b && t && i == 0 && dev != 1) continue; /* EACCES or ENETUNREACH: that depends on routes */
        int s = socket(AF_INET, t == 2 ? SOCK_RAW : t ? SOCK_DGRAM : SOCK_STREAM, t == 2 ? 200 : 0);
        if (b) setsockopt(s, SOL_SOCKET, SO_BROADCAST, &one, 4);
        if (dev == 1) setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3);
        if (dev == 2) { struct ip_mreqn m = {.imr_ifindex = 1}; setsockopt(s, SOL_IP, IP_MULTICAST_IF, &m, sizeof m); }
        if (!t) fcntl(s, F_SETFL, O_NONBLOCK);
        struct sockaddr_in a = in4(addrs[i], 5000);
        printf("dev %d broadcast %d type %d %s: ", dev, b, t, addrs[i]);
        errno = 0;
        if (t) { long r = sendto(s, "x", 1, 0, (void*)&a, sizeof a); printf("send %ld %s ", r, err(r)); }
        long r = connect(s, (void*)&a, sizeof a); printf("connect %s ", err(r));
        if (r == 0) { struct sockaddr_in n; socklen_t l = sizeof n; getsockname(s, (void*)&n, &l); printf("from %s ", inet_ntoa(n.sin_addr)); if (t) { r = send(s, "x", 1, 0); printf("send %s ", err(r)); } }
        printf("\n");
        close(s);
    }
    for (int t = 1; t < 3; t++) for (int i = 0; i < 7; i++) {
        int s = socket(AF_INET, t == 2 ? SOCK_RAW : SOCK_DGRAM, t == 2 ? 200 : 0); struct sockaddr_in a = in4(addrs[i], 5001);
        int r = bind(s, (void*)&a, sizeof a); printf("type %d bind %s: %s\n", t, addrs[i], err(r)); close(s);
    }
    { int s = socket(AF_INET, SOCK_STREAM, 0); struct sockaddr_in a = in4("255.255.255.255", 5001); TRY(bind(s, (void*)&a, sizeof a)); a = in4("127.255.255.255", 5001); TRY(bind(s, (void*)&a, sizeof a)); a = in4("224.0.0.1", 5002); TRY(bind(s, (void*)&a, sizeof a)); }
    /* who receives */
    const char *local[] = {"0.0.0.0", "127.0.0.1", "127.255.255.255", "255.255.255.255", "::", "127.0.0.5"};
    for (int dev = 0; dev < 2; dev++) for (int i = 0; i < 2; i++) for (int multi = 0; multi < 2; multi++) {
        int r[6];
        for (int k = 0; k < 6; k++) { r[k] = socket(k == 4 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0); setsockopt(r[k], SOL_SOCKET, SO_REUSEADDR, &one, 4);
            if (k == 4) { struct sockaddr_in6 a = in6("::", 5003); bind(r[k], (void*)&a, sizeof a); } else { struct sockaddr_in a = in4(local[k], 5003); if (bind(r[k], (void*)&a, sizeof a)) printf("no bind %s\n", local[k]); }
            setsockopt(r[k], SOL_IP, IP_PKTINFO, &one, 4); if (multi) setsockopt(r[k], SOL_SOCKET, SO_BROADCAST, &one, 4); }
        int s = socket(AF_INET, SOCK_DGRAM, 0); setsockopt(s, SOL_SOCKET, SO_BROADCAST, &one, 4); if (dev) setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3);
        struct sockaddr_in a = in4(addrs[i], 5003);
        int q = sendto(s, "hello", 5, 0, (void*)&a, sizeof a); printf("to %s dev %d: %s\n", addrs[i], dev, err(q)); usleep(500);
        for (int k = 0; k < 6; k++) { char b[10], c[200]; struct sockaddr_in f; memset(&f, 0, sizeof f); struct msghdr m = {.msg_name = &f, .msg_namelen = sizeof f, .msg_iov = &(struct iovec){b, 10}, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
            long n = recvmsg(r[k], &m, MSG_DONTWAIT); printf(" %s: %ld", local[k], n); if (n > 0 && k != 4) { printf(" from %s", inet_ntoa(f.sin_addr)); struct cmsghdr *h = CMSG_FIRSTHDR(&m); if (h) { struct in_pktinfo *p = (void*)CMSG_DATA(h); printf(" if %d spec %s", p->ipi_ifindex, inet_ntoa(p->ipi_spec_dst)); printf(" dst %s", inet_ntoa(p->ipi_addr)); } } }
        printf("\n"); for (int k = 0; k < 6; k++) close(r[k]); close(s);
    }
    return 0;
}
