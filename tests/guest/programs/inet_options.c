#include "inet_common.h"
/* Options of TCP, IP and IPv6: defaults, values after setting, errors. */
static void show(int s, int level, int name) {
    int v = -99;
    unsigned char raw[64];
    socklen_t n = 4;
    errno = 0;
    int r = getsockopt(s, level, name, &v, &n);
    printf("%d/%d: %s len %d value %d", level, name, err(r), n, r == 0 ? v : 0);
    n = 1;
    errno = 0;
    r = getsockopt(s, level, name, raw, &n);
    printf(" short %s %d", err(r), n);
    int values[] = {0, 1, -1, 50, 100000};
    for (int i = 0; i < 5; i++) {
        errno = 0;
        r = setsockopt(s, level, name, &values[i], 4);
        printf(" | %s", err(r));
        n = 4;
        v = -99;
        getsockopt(s, level, name, &v, &n);
        if (r == 0) printf(" %d", v);
    }
    errno = 0;
    r = setsockopt(s, level, name, &values[1], 1);
    printf(" | %s\n", err(r));
}
int main(void) {
    int tcp[] = {TCP_NODELAY, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT, TCP_LINGER2, TCP_DEFER_ACCEPT, TCP_QUICKACK, TCP_USER_TIMEOUT, TCP_FASTOPEN_CONNECT, TCP_INQ};
    int ip[] = {IP_TOS, IP_TTL, IP_PKTINFO, IP_MTU_DISCOVER, IP_RECVERR, IP_RECVTTL, IP_RECVTOS, IP_MTU, IP_FREEBIND, IP_MINTTL, IP_MULTICAST_TTL, IP_MULTICAST_LOOP, IP_MULTICAST_ALL, IP_BIND_ADDRESS_NO_PORT, IP_HDRINCL};
    int ip6[] = {IPV6_UNICAST_HOPS, IPV6_MULTICAST_HOPS, IPV6_MULTICAST_LOOP, IPV6_RECVERR, IPV6_V6ONLY, IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_TCLASS, IPV6_MTU_DISCOVER, IPV6_MULTICAST_ALL};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    for (unsigned i = 0; i < sizeof tcp / 4; i++) show(s, IPPROTO_TCP, tcp[i]);
    for (unsigned i = 0; i < sizeof ip / 4; i++) show(s, IPPROTO_IP, ip[i]);
    show(s, IPPROTO_IPV6, IPV6_V6ONLY);
    int u = socket(AF_INET, SOCK_DGRAM, 0);
    for (unsigned i = 0; i < sizeof ip / 4; i++) show(u, IPPROTO_IP, ip[i]);
    show(u, IPPROTO_TCP, TCP_NODELAY);
    show(u, IPPROTO_UDP, 1);
    int x = socket(AF_INET6, SOCK_DGRAM, 0);
    for (unsigned i = 0; i < sizeof ip6 / 4; i++) show(x, IPPROTO_IPV6, ip6[i]);
    char name[16] = "";
    socklen_t n = sizeof name;
    TRY(getsockopt(s, IPPROTO_TCP, TCP_CONGESTION, name, &n));
    printf("%d\n", n);
    TRY(setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
    TRY(setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "nothing", 7));
    getsockopt(s, IPPROTO_TCP, TCP_CONGESTION, name, &n);
    printf("%s\n", name);
    int v = 0, names[] = {SO_SNDBUF, SO_RCVBUF, SO_TYPE, SO_PROTOCOL, SO_DOMAIN, SO_ACCEPTCONN, SO_KEEPALIVE, SO_REUSEPORT, SO_ERROR, SO_RCVLOWAT};
    for (int i = 0; i < 10; i++) {
        n = 4; getsockopt(s, SOL_SOCKET, names[i], &v, &n); printf("tcp %d: %d\n", names[i], v);
        n = 4; getsockopt(u, SOL_SOCKET, names[i], &v, &n); printf("udp %d: %d\n", names[i], v);
    }
    int p[2];
    tcp_pair(p);
    n = 4; getsockopt(p[0], IPPROTO_IP, IP_MTU, &v, &n); printf("mtu %d\n", v);
    struct tcp_info info;
    n = sizeof info;
    TRY(getsockopt(p[0], IPPROTO_TCP, TCP_INFO, &info, &n));
    printf("state %d\n", info.tcpi_state);
    close(p[1]);
    usleep(1000);
    n = sizeof info;
    getsockopt(p[0], IPPROTO_TCP, TCP_INFO, &info, &n);
    printf("state %d\n", info.tcpi_state);
    TRY(setsockopt(s, IPPROTO_TCP, TCP_ULP, "tls", 4));
    struct ucred cr;
    n = sizeof cr;
    TRY(getsockopt(p[0], SOL_SOCKET, SO_PEERCRED, &cr, &n));
    TRY(setsockopt(p[0], 1234, 1, &v, 4));
    TRY(getsockopt(p[0], 1234, 1, &v, &n));
    SHOW(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    SHOW(socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP));
    SHOW(socket(AF_INET, SOCK_STREAM, 300));
    SHOW(socket(AF_INET, SOCK_SEQPACKET, 0));
    SHOW(socket(AF_INET, SOCK_RAW, 0));
    SHOW(socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMP));
    return 0;
}
