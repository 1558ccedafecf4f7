#include "inet_common.h"
#include <linux/netlink.h>
/* NETLINK_USERSOCK between two sockets of a program; KOBJECT_UEVENT listens. */
int main(void) {
    int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK), t = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK);
    struct sockaddr_nl a = {.nl_family = AF_NETLINK, .nl_pid = 1234567}, b = {.nl_family = AF_NETLINK, .nl_pid = 1234568}, from;
    char buf[64];
    SHOW(bind(s, (void *)&a, sizeof a));
    SHOW(bind(t, (void *)&a, sizeof a));
    SHOW(bind(t, (void *)&b, sizeof b));
    SHOW(sendto(s, "hello", 5, 0, (void *)&b, sizeof b));
    socklen_t n = sizeof from;
    SHOW(recvfrom(t, buf, 3, MSG_TRUNC, (void *)&from, &n));
    printf("from %d len %d\n", from.nl_pid, (int)n);
    SHOW(recv(t, buf, 3, MSG_DONTWAIT));
    b.nl_pid = 99;
    SHOW(sendto(s, "hello", 5, 0, (void *)&b, sizeof b));
    b.nl_pid = 1234568;
    SHOW(connect(s, (void *)&b, sizeof b));
    SHOW(send(s, "again", 5, 0));
    events("t", t);
    SHOW(recv(t, buf, 64, 0));
    n = sizeof from;
    SHOW(getpeername(s, (void *)&from, &n));
    printf("peer %d\n", from.nl_pid);
    int u = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
    struct sockaddr_nl g = {.nl_family = AF_NETLINK, .nl_groups = 1};
    SHOW(bind(u, (void *)&g, sizeof g));
    SHOW(recv(u, buf, 64, 0));
    events("u", u);
    return 0;
}
