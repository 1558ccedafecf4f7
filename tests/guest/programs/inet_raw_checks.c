/* Raw sockets: names, checksums right and wrong, filters, what is counted in the receive buffer. */
#include "inet_common.h"
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
static unsigned short sum(const void *p, int n, unsigned s) { const unsigned char *b = p; for (int i = 0; i + 1 < n; i += 2) s += b[i] << 8 | b[i+1]; if (n & 1) s += b[n-1] << 8; while (s >> 16) s = (s & 0xffff) + (s >> 16); return htons(~s & 0xffff); }
static void name(const char *w, int fd, int peer) { struct sockaddr_storage s; memset(&s, 0, sizeof s); socklen_t n = sizeof s; errno = 0; int r = peer ? getpeername(fd, (void*)&s, &n) : getsockname(fd, (void*)&s, &n); char b[64] = ""; 
 if (r < 0) { printf("%s %s: %s\n", w, peer ? "peer" : "name", err(r)); return; }
 int p = ntohs(((struct sockaddr_in*)&s)->sin_port); inet_ntop(s.ss_family, s.ss_family == AF_INET ? (void*)&((struct sockaddr_in*)&s)->sin_addr : (void*)&((struct sockaddr_in6*)&s)->sin6_addr, b, 64); printf("%s %s: %s port %d len %d\n", w, peer ? "peer" : "name", b, p, n); }
int main(void) {
    int protos[] = {1, 17, 6, 58, 200, 255};
    for (int v6 = 0; v6 < 2; v6++) for (int i = 0; i < 6; i++) for (int step = 0; step < 5; step++) {
        int s = socket(v6 ? AF_INET6 : AF_INET, SOCK_RAW, protos[i]); if (s < 0) { printf("no %d\n", protos[i]); continue; }
        char w[60]; sprintf(w, "v6 %d proto %d step %d", v6, protos[i], step);
        struct sockaddr_in a = in4("127.0.0.1", 77); struct sockaddr_in6 b = in6("::1", 77); struct sockaddr *p = v6 ? (void*)&b : (void*)&a; socklen_t n = v6 ? sizeof b : sizeof a;
        int r = 0;
        if (step == 1) r = bind(s, p, n);
        if (step == 2) r = connect(s, p, n);
        if (step == 3) { r = bind(s, p, n); a.sin_port = b.sin6_port = htons(99); printf("%s ", err(r)); r = connect(s, p, n); }
        if (step == 4) { r = connect(s, p, n); struct sockaddr u = {AF_UNSPEC}; printf("%s ", err(r)); r = connect(s, &u, sizeof u); }
        printf("%s\n", err(r));
        name(w, s, 0); name(w, s, 1);
        close(s);
    }
    /* IPV6_CHECKSUM */
    for (int proto = 58; proto < 260; proto += 142) {
        int offs[] = {-1, 0, 2, 3, 6, 100, 1000, -2};
        for (int o = 0; o < 8; o++) {
            int s = socket(AF_INET6, SOCK_RAW, proto == 200 ? 200 : 58); int v = offs[o], g = 7; socklen_t n = 4; struct sockaddr_in6 b = in6("::1", 0);
            int r = setsockopt(s, IPPROTO_IPV6, IPV6_CHECKSUM, &v, 4); printf("proto %d offset %d: %s", proto, v, err(r)); r = setsockopt(s, 255, 7, &v, 4); printf(" raw level %s", err(r));
            r = getsockopt(s, IPPROTO_IPV6, IPV6_CHECKSUM, &g, &n); printf(" get %s %d", err(r), g);
            char m[8] = {200, 1, 2, 3, 4, 5, 6, 7}, c[100]; r = sendto(s, m, 8, 0, (void*)&b, sizeof b); printf(" send %s", err(r)); r = recv(s, c, 100, MSG_DONTWAIT); printf(" recv %d", r); if (r > 0) for (int i = 0; i < 8; i++) printf(" %02x", (unsigned char)c[i]); printf("\n"); close(s); }
    }
    /* wrong checksums: icmp6 and protocol 200 with IPV6_CHECKSUM; icmp, udp by IPPROTO_RAW */
    { int s = socket(AF_INET6, SOCK_RAW, 200), q = socket(AF_INET6, SOCK_RAW, 200), v = 2; struct sockaddr_in6 b = in6("::1", 0); setsockopt(q, IPPROTO_IPV6, IPV6_CHECKSUM, &v, 4); char m[8] = "abcdefg", c[100]; sendto(s, m, 8, 0, (void*)&b, sizeof b); printf("plain to checking: %zd, to plain %zd\n", recv(q, c, 100, MSG_DONTWAIT), recv(s, c, 100, MSG_DONTWAIT)); sendto(q, m, 8, 0, (void*)&b, sizeof b); printf("right to checking: %zd, to plain %zd\n", recv(q, c, 100, MSG_DONTWAIT), recv(s, c, 100, MSG_DONTWAIT)); sendto(q, m, 3, 0, (void*)&b, sizeof b); printf("short: %s\n", strerrorname_np(errno)); close(s); close(q); }
    for (int bad = 0; bad < 4; bad++) {
        int s = socket(AF_INET, SOCK_RAW, IPPROTO_RAW), q = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), u = socket(AF_INET, SOCK_DGRAM, 0), ru = socket(AF_INET, SOCK_RAW, IPPROTO_UDP); int port = bound(u, "127.0.0.1");
        struct sockaddr_in a = in4("127.0.0.1", 0); char p[100], c[200]; memset(p, 0, 100);
        struct iphdr *h = (void*)p; h->version = 4; h->ihl = 5; h->ttl = 64; h->protocol = 1; h->saddr = h->daddr = a.sin_addr.s_addr; h->tot_len = bad == 3 ? htons(5) : 0; h->check = 0x1234;
        struct icmphdr *ic = (void*)(p + 20); ic->type = 8; ic->un.echo.id = htons(9); ic->checksum = sum(ic, 16, 0); if (bad & 1) ic->checksum ^= 0x55;
        long r = sendto(s, p, 36, 0, (void*)&a, sizeof a); printf("icmp bad %d: send %ld %s", bad, r, err(r)); for (int i = 0; i < 3; i++) { r = recv(q, c, 200, MSG_DONTWAIT); printf(" recv %ld", r); if (r > 20) printf(" type %d ipsum %s len %d", c[20], sum(c, 20, 0) == 0 ? "ok" : "bad", ntohs(((struct iphdr*)c)->tot_len)); } printf("\n");
        h->protocol = 17; h->tot_len = 0; struct udphdr *d = (void*)(p + 20); memset(d, 0, 16); d->source = htons(7); d->dest = htons(port); d->len = htons(bad == 2 ? 50 : 16); 
        unsigned ps = (ntohl(h->saddr) >> 16) + (ntohl(h->saddr) & 0xffff); ps += ps + 17 + 16; d->check = sum(d, 16, ps); if (bad & 1) d->check ^= 0x77; 
        r = sendto(s, p, 36, 0, (void*)&a, sizeof a); printf("udp bad %d: send %ld %s", bad, r, err(r)); r = recv(u, c, 200, MSG_DONTWAIT); printf(" udp %ld", r); r = recv(ru, c, 200, MSG_DONTWAIT); printf(" raw %ld\n", r);
        close(s); close(q); close(u); close(ru);
    }
    /* icmp filter */
    { int q = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), v = 1 << 0; socklen_t n = 4; struct sockaddr_in a = in4("127.0.0.1", 0); setsockopt(q, 255, 1, &v, 4); struct icmphdr ic = {8}; ic.checksum = sum(&ic, 8, 0); char c[100]; sendto(q, &ic, 8, 0, (void*)&a, sizeof a); for (int i = 0; i < 3; i++) { long r = recv(q, c, 100, MSG_DONTWAIT); printf("filter %ld type %d\n", r, r > 20 ? c[20] : -1); }
      v = 0; getsockopt(q, 255, 1, &v, &n); printf("filter %x len %d\n", v, n); for (int l = 0; l < 9; l++) { v = 3; errno = 0; long r = setsockopt(q, 255, 1, &v, l); n = 4; int g = 0; getsockopt(q, 255, 1, &g, &n); printf("set %d: %s %x\n", l, err(r), g); } close(q); }
    { int q = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6); struct icmp6_filter f; ICMP6_FILTER_SETBLOCKALL(&f); ICMP6_FILTER_SETPASS(129, &f); SHOW(setsockopt(q, IPPROTO_ICMPV6, ICMP6_FILTER, &f, sizeof f)); struct sockaddr_in6 b = in6("::1", 0); char m[8] = {128}, c[100]; SHOW(sendto(q, m, 8, 0, (void*)&b, sizeof b)); for (int i = 0; i < 2; i++) { long r = recv(q, c, 100, MSG_DONTWAIT); printf("filter6 %ld type %d\n", r, r > 0 ? (unsigned char)c[0] : -1); } close(q); }
    /* receive buffer */
    for (int kind = 0; kind < 2; kind++) for (int size = 1; size < 9000; size = size * 7) { int q = socket(AF_INET, SOCK_RAW, 200), s = socket(AF_INET, SOCK_RAW, 200), v = kind ? 4000 : 20000, n = 0; char b[9000]; shutdown(s, SHUT_RD); setsockopt(q, SOL_SOCKET, SO_RCVBUF, &v, 4); struct sockaddr_in a = in4("127.0.0.1", 0); for (int i = 0; i < 200; i++) { if (sendto(s, b, size, 0, (void*)&a, sizeof a) < 0) printf("%s ", strerrorname_np(errno)); recv(s, b, sizeof b, MSG_DONTWAIT); } while (recv(q, b, sizeof b, MSG_DONTWAIT) >= 0) n++; printf("rcvbuf %d size %d: %d\n", v, size, n); close(q); close(s); }
    return 0;
}
