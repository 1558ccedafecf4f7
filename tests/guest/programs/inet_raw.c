#include "inet_common.h"
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/icmp6.h>
#include <netinet/udp.h>
/* Raw sockets over lo. */
static unsigned short sum(const void *p, int n) {
    const unsigned char *b = p;
    unsigned long s = 0;
    for (int i = 0; i + 1 < n; i += 2) s += b[i] << 8 | b[i + 1];
    if (n & 1) s += b[n - 1] << 8;
    while (s >> 16) s = (s & 0xffff) + (s >> 16);
    return htons(~s);
}
static void show4(int fd, const char *what) {
    unsigned char b[300];
    struct sockaddr_in from;
    socklen_t n = sizeof from;
    int r = recvfrom(fd, b, sizeof b, MSG_DONTWAIT, (void *)&from, &n);
    if (r < 0) { printf("%s: %s\n", what, strerror(errno)); return; }
    struct iphdr *ip = (void *)b;
    printf("%s: %d bytes, from port %d; ip v%d hl %d len %d ttl %d proto %d df %d sum %s;", what, r, ntohs(from.sin_port), ip->version, ip->ihl,
           ntohs(ip->tot_len), ip->ttl, ip->protocol, !!(ip->frag_off & htons(0x4000)), sum(ip, ip->ihl * 4) ? "bad" : "ok");
    for (int i = ip->ihl * 4; i < r && i < 28; i++) if (ip->protocol != IPPROTO_ICMP || (i != 22 && i != 23)) printf(" %02x", b[i]);
    puts("");
}
int main(void) {
    struct sockaddr_in lo = in4("127.0.0.1", 0);
    int icmp = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (icmp < 0) { printf("icmp: %s\n", strerror(errno)); return 0; }
    struct { struct icmphdr h; char data[8]; } echo = {{.type = ICMP_ECHO}, "payload"};
    echo.h.un.echo.id = htons(0x1234);
    echo.h.un.echo.sequence = htons(7);
    echo.h.checksum = sum(&echo, sizeof echo);
    SHOW(sendto(icmp, &echo, sizeof echo, 0, (void *)&lo, sizeof lo));
    usleep(2000);
    show4(icmp, "request");
    show4(icmp, "reply");
    show4(icmp, "none");
    struct { unsigned mask; } filter = {1 << ICMP_ECHO};
    SHOW(setsockopt(icmp, SOL_RAW, 1, &filter, sizeof filter));
    SHOW(sendto(icmp, &echo, sizeof echo, 0, (void *)&lo, sizeof lo));
    usleep(2000);
    show4(icmp, "filtered");
    show4(icmp, "none");
    int hdr = socket(AF_INET, SOCK_RAW, IPPROTO_RAW), on = 0;
    socklen_t n = 4;
    SHOW(getsockopt(hdr, IPPROTO_IP, IP_HDRINCL, &on, &n));
    printf("hdrincl %d\n", on);
    int udp = socket(AF_INET, SOCK_DGRAM, 0), port = bound(udp, "127.0.0.1");
    struct { struct iphdr ip; struct udphdr u; char d[4]; } __attribute__((packed)) packet = {
        {.version = 4, .ihl = 5, .ttl = 9, .protocol = IPPROTO_UDP}, {htons(5), htons(port), htons(12), 0}, "raw"};
    packet.ip.saddr = packet.ip.daddr = htonl(INADDR_LOOPBACK);
    SHOW(sendto(hdr, &packet, sizeof packet, 0, (void *)&lo, sizeof lo));
    usleep(2000);
    char b[20];
    struct sockaddr_in from;
    n = sizeof from;
    SHOW(recvfrom(udp, b, 20, MSG_DONTWAIT, (void *)&from, &n));
    printf("%s from port %d\n", b, ntohs(from.sin_port));
    int raw = socket(AF_INET, SOCK_RAW, IPPROTO_UDP);
    SHOW(sendto(udp, "x", 1, 0, (void *)&(struct sockaddr_in){AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}}, sizeof lo));
    usleep(2000);
    n = recv(raw, b, 20, MSG_DONTWAIT);
    printf("raw udp sees %d\n", (int)n);
    int own = socket(AF_INET, SOCK_RAW, 200);
    SHOW(connect(own, (void *)&lo, sizeof lo));
    SHOW(send(own, "abc", 3, 0));
    usleep(1000);
    show4(own, "protocol 200");
    SHOW(setsockopt(own, IPPROTO_IP, IP_HDRINCL, &(int){1}, 4));
    SHOW(send(own, "abc", 3, 0));
    SHOW(send(icmp, "abc", 3, 0));
    int six = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
    struct { struct icmp6_hdr h; char data[4]; } echo6 = {{.icmp6_type = ICMP6_ECHO_REQUEST}, "six"};
    struct sockaddr_in6 lo6 = in6("::1", 0);
    SHOW(sendto(six, &echo6, sizeof echo6, 0, (void *)&lo6, sizeof lo6));
    usleep(2000);
    unsigned char r6[100];
    for (int i = 0; i < 3; i++) {
        int r = recv(six, r6, sizeof r6, MSG_DONTWAIT);
        if (r < 0) printf("six: %s\n", strerror(errno));
        else printf("six: %d type %d code %d sum %s %.4s\n", r, r6[0], r6[1], r6[2] | r6[3] ? "set" : "0", r6 + 8);
    }
    SHOW(shutdown(own, SHUT_RD));
    SHOW(listen(own, 1));
    struct sockaddr_in back = in4("127.0.0.1", 99);
    int b2 = socket(AF_INET, SOCK_RAW, 201);
    SHOW(bind(b2, (void *)&back, sizeof back));
    name4("raw", b2, 0, 99);
    return 0;
}
