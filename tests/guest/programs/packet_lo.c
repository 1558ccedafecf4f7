#include "inet_common.h"
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
/* AF_PACKET on lo: packets can be seen, and sent. */
static int port;
/* Show the next packet that concerns this program's port; other programs may use lo meanwhile. */
static void show(int fd, const char *what, int link) {
    unsigned char b[2000];
    for (int turn = 0; turn < 50; turn++) {
        struct sockaddr_ll from;
        socklen_t n = sizeof from;
        memset(&from, 0, sizeof from);
        int r = recvfrom(fd, b, sizeof b, MSG_DONTWAIT, (void *)&from, &n);
        if (r < 0) { printf("%s: %s\n", what, strerror(errno)); return; }
        struct iphdr *ip = (void *)(b + link);
        struct udphdr *u = (void *)(b + link + 20);
        if (r < link + 28 || ip->version != 4 || ip->protocol != 17 || (u->dest != htons(port) && u->source != htons(port))) continue;
        printf("%s: %d bytes, family %d protocol %#x ifindex %d hatype %d pkttype %d halen %d namelen %d;", what, r, from.sll_family,
               ntohs(from.sll_protocol), from.sll_ifindex, from.sll_hatype, from.sll_pkttype, from.sll_halen, (int)n);
        for (int i = 0; i < link; i++) printf(" %02x", b[i]);
        printf(" | ttl %d len %d udp len %d data %.5s\n", ip->ttl, ntohs(ip->tot_len), ntohs(u->len), b + link + 28);
        return;
    }
}
static void empty(int fd) { char b[10]; while (recv(fd, b, 10, MSG_DONTWAIT) >= 0) ; }
int main(void) {
    int raw = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    int dgram = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP));
    if (raw < 0 || dgram < 0) { printf("%s\n", strerror(errno)); return 0; }
    int none = socket(AF_PACKET, SOCK_RAW, 0);
    int u = socket(AF_INET, SOCK_DGRAM, 0), a = socket(AF_INET, SOCK_DGRAM, 0);
    port = bound(a, "127.0.0.1");
    struct sockaddr_in to = in4("127.0.0.1", port);
    empty(raw); empty(dgram);
    SHOW(sendto(u, "hello", 5, 0, (void *)&to, sizeof to));
    usleep(1000);
    show(raw, "raw outgoing", 14);
    show(raw, "raw incoming", 14);
    show(dgram, "cooked", 0);
    printf("none %d\n", (int)recv(none, &port, 0, MSG_DONTWAIT));
    struct sockaddr_ll lo = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = if_nametoindex("lo")};
    SHOW(bind(dgram, (void *)&lo, sizeof lo));
    struct sockaddr_ll name;
    socklen_t n = sizeof name;
    memset(&name, 0, sizeof name);
    SHOW(getsockname(dgram, (void *)&name, &n));
    printf("len %d family %d protocol %#x ifindex %d hatype %d halen %d\n", (int)n, name.sll_family, ntohs(name.sll_protocol), name.sll_ifindex == lo.sll_ifindex,
           name.sll_hatype, name.sll_halen);
    lo.sll_ifindex = 99999;
    SHOW(bind(none, (void *)&lo, sizeof lo));
    SHOW(bind(none, (void *)&lo, 10));
    lo.sll_ifindex = if_nametoindex("lo");
    SHOW(connect(raw, (void *)&lo, sizeof lo));
    SHOW(listen(raw, 1));
    SHOW(getpeername(raw, (void *)&name, &n));
    SHOW(shutdown(raw, SHUT_RD));
    /* Send a datagram by hand. */
    struct { struct iphdr ip; struct udphdr u; char d[4]; } __attribute__((packed)) p = {
        {.version = 4, .ihl = 5, .ttl = 9, .protocol = IPPROTO_UDP, .tot_len = htons(32)}, {htons(5), to.sin_port, htons(12), 0}, "man"};
    p.ip.saddr = p.ip.daddr = htonl(INADDR_LOOPBACK);
    unsigned s = 0;
    for (int i = 0; i < 10; i++) s += ((unsigned short *)&p)[i];
    while (s >> 16) s = (s & 0xffff) + (s >> 16);
    p.ip.check = ~s;
    lo.sll_halen = 6;
    char b[2000];
    recv(a, b, 100, MSG_DONTWAIT);
    SHOW(sendto(dgram, &p, sizeof p, 0, (void *)&lo, sizeof lo));
    usleep(1000);
    n = sizeof to;
    struct sockaddr_in from;
    SHOW(recvfrom(a, b, 100, MSG_DONTWAIT, (void *)&from, &n));
    printf("%.3s from %s port %d\n", b, inet_ntoa(from.sin_addr), ntohs(from.sin_port));
    unsigned char frame[14 + sizeof p] = {0};
    frame[12] = 8;
    memcpy(frame + 14, &p, sizeof p);
    SHOW(sendto(raw, frame, sizeof frame, 0, (void *)&lo, sizeof lo));
    usleep(1000);
    SHOW(recvfrom(a, b, 100, MSG_DONTWAIT, (void *)&from, &n));
    SHOW(sendto(raw, frame, 5, 0, (void *)&lo, sizeof lo));
    SHOW(send(none, frame, sizeof frame, 0));
    static char big[70000];
    SHOW(sendto(raw, big, 70000, 0, (void *)&lo, sizeof lo));
    lo.sll_ifindex = 99999;
    SHOW(sendto(raw, frame, sizeof frame, 0, (void *)&lo, sizeof lo));
    /* Options. */
    struct tpacket_stats st;
    n = sizeof st;
    SHOW(getsockopt(raw, SOL_PACKET, PACKET_STATISTICS, &st, &n));
    printf("%d drops %d\n", (int)n, st.tp_drops);
    struct packet_mreq m = {.mr_ifindex = if_nametoindex("lo"), .mr_type = PACKET_MR_PROMISC};
    SHOW(setsockopt(raw, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m, sizeof m));
    SHOW(setsockopt(raw, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &m, sizeof m));
    int v = 1;
    SHOW(setsockopt(raw, SOL_PACKET, PACKET_AUXDATA, &v, sizeof v));
    n = 4; v = -1;
    SHOW(getsockopt(raw, SOL_PACKET, PACKET_AUXDATA, &v, &n));
    printf("%d\n", v);
    SHOW(setsockopt(raw, SOL_PACKET, PACKET_IGNORE_OUTGOING, &(int){1}, 4));
    empty(raw);
    SHOW(sendto(u, "again", 5, 0, (void *)&to, sizeof to));
    usleep(1000);
    show(raw, "without outgoing", 14);
    show(raw, "no more", 14);
    events("dgram", dgram);
    v = 0;
    ioctl(dgram, FIONREAD, &v);
    printf("inq %s\n", v > 0 ? "some" : "0");
    SHOW(setsockopt(raw, SOL_PACKET, 999, &v, 4));
    SHOW(getsockopt(raw, SOL_PACKET, 999, &v, &n));
    printf("types %d", socket(AF_PACKET, SOCK_STREAM, 0)); printf(" %s\n", strerror(errno));
    return 0;
}
