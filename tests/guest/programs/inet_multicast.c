#include "inet_common.h"
/* Multicast on lo, SO_REUSEADDR groups, broadcast. */
int main(void) {
    int a = socket(AF_INET, SOCK_DGRAM, 0), b = socket(AF_INET, SOCK_DGRAM, 0), s = socket(AF_INET, SOCK_DGRAM, 0), on = 1, off = 0;
    setsockopt(a, SOL_SOCKET, SO_REUSEADDR, &on, 4);
    setsockopt(b, SOL_SOCKET, SO_REUSEADDR, &on, 4);
    int port = bound(a, "0.0.0.0");
    struct sockaddr_in any = in4("0.0.0.0", port), group = in4("239.1.2.3", port);
    SHOW(bind(b, (void *)&any, sizeof any));
    struct ip_mreqn r = {.imr_multiaddr = group.sin_addr, .imr_ifindex = 1};
    SHOW(setsockopt(a, IPPROTO_IP, IP_ADD_MEMBERSHIP, &r, sizeof r));
    SHOW(setsockopt(a, IPPROTO_IP, IP_ADD_MEMBERSHIP, &r, sizeof r));
    SHOW(setsockopt(b, IPPROTO_IP, IP_MULTICAST_ALL, &off, 4));
    SHOW(setsockopt(s, IPPROTO_IP, IP_MULTICAST_IF, &r, sizeof r));
    SHOW(sendto(s, "group", 5, 0, (void *)&group, sizeof group));
    char buf[16];
    struct sockaddr_in from;
    socklen_t n = sizeof from;
    SHOW(recvfrom(a, buf, 16, MSG_DONTWAIT, (void *)&from, &n));
    SHOW(recv(b, buf, 16, MSG_DONTWAIT));
    SHOW(setsockopt(b, IPPROTO_IP, IP_ADD_MEMBERSHIP, &r, sizeof r));
    SHOW(sendto(s, "both", 4, 0, (void *)&group, sizeof group));
    SHOW(recv(a, buf, 16, MSG_DONTWAIT));
    SHOW(recv(b, buf, 16, MSG_DONTWAIT));
    SHOW(setsockopt(s, IPPROTO_IP, IP_MULTICAST_LOOP, &off, 4));
    SHOW(sendto(s, "none", 4, 0, (void *)&group, sizeof group));
    SHOW(recv(a, buf, 16, MSG_DONTWAIT));
    SHOW(setsockopt(a, IPPROTO_IP, IP_DROP_MEMBERSHIP, &r, sizeof r));
    SHOW(setsockopt(a, IPPROTO_IP, IP_DROP_MEMBERSHIP, &r, sizeof r));
    r.imr_multiaddr.s_addr = htonl(0x7f000001);
    SHOW(setsockopt(a, IPPROTO_IP, IP_ADD_MEMBERSHIP, &r, sizeof r));
    r.imr_multiaddr = group.sin_addr;
    r.imr_ifindex = 4711;
    SHOW(setsockopt(a, IPPROTO_IP, IP_ADD_MEMBERSHIP, &r, sizeof r));
    SHOW(setsockopt(a, IPPROTO_IP, IP_ADD_MEMBERSHIP, &r, 4));
    struct sockaddr_in uni = in4("127.0.0.1", port);
    SHOW(sendto(s, "last", 4, 0, (void *)&uni, sizeof uni));
    SHOW(recv(a, buf, 16, MSG_DONTWAIT));
    SHOW(recv(b, buf, 16, MSG_DONTWAIT));
    struct sockaddr_in bc = in4("127.255.255.255", port);
    SHOW(sendto(s, "bcast", 5, 0, (void *)&bc, sizeof bc));
    SHOW(setsockopt(s, SOL_SOCKET, SO_BROADCAST, &on, 4));
    SHOW(sendto(s, "bcast", 5, 0, (void *)&bc, sizeof bc));
    SHOW(recv(a, buf, 16, MSG_DONTWAIT));
    SHOW(recv(b, buf, 16, MSG_DONTWAIT));
    return 0;
}
