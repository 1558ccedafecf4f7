#include "inet_common.h"
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
/* Raw sockets to loopback: ICMP echo, own protocols, IP_HDRINCL. */
static unsigned short sum(void *p, int n) {
    unsigned s = 0;
    unsigned char *b = p;
    for (int i = 0; i < n; i += 2) s += b[i] << 8 | (i + 1 < n ? b[i + 1] : 0);
    while (s >> 16) s = (s & 0xffff) + (s >> 16);
    return htons(~s);
}
int main(void) {
    struct sockaddr_in lo = in4("127.0.0.1", 0), from;
    socklen_t n = sizeof from;
    char b[256];
    int r = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (r < 0) { printf("%s\n", err(-1)); return 0; }
    struct { struct icmphdr h; char data[8]; } e = {.h = {.type = ICMP_ECHO, .un.echo = {htons(7), htons(1)}}, .data = "payload"};
    e.h.checksum = sum(&e, sizeof e);
    SHOW(sendto(r, &e, sizeof e, 0, (void *)&lo, sizeof lo));
    for (int i = 0; i < 2; i++) {
        n = sizeof from;
        SHOW(recvfrom(r, b, sizeof b, 0, (void *)&from, &n));
        struct iphdr *ip = (void *)b;
        struct icmphdr *h = (void *)(b + 20);
        printf("version %d ihl %d proto %d type %d id %d from %s\n", ip->version, ip->ihl, ip->protocol, h->type, ntohs(h->un.echo.id), inet_ntoa(from.sin_addr));
    }
    SHOW(recv(r, b, sizeof b, MSG_DONTWAIT));
    int p = socket(AF_INET, SOCK_RAW, 253), q = socket(AF_INET, SOCK_RAW, 253);
    SHOW(sendto(p, "custom", 6, 0, (void *)&lo, sizeof lo));
    SHOW(recv(q, b, sizeof b, MSG_DONTWAIT));
    printf("%.6s\n", b + 20);
    SHOW(send(p, "x", 1, 0));
    SHOW(connect(p, (void *)&lo, sizeof lo));
    SHOW(send(p, "x", 1, 0));
    SHOW(recv(q, b, sizeof b, MSG_DONTWAIT));
    SHOW(socket(AF_INET, SOCK_RAW, 0));
    SHOW(socket(AF_INET, SOCK_RAW, 999));
    int v; n = 4;
    getsockopt(p, SOL_SOCKET, SO_PROTOCOL, &v, &n);
    printf("%d\n", v);
    return 0;
}
