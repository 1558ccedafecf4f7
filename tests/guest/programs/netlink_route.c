#include "inet_common.h"
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
/* rtnetlink: getifaddrs, dumps and requests about lo, acknowledgements and errors. */
static int s;
static void request(int type, int flags, void *body, int size) {
    struct { struct nlmsghdr h; char b[256]; } m = {.h = {.nlmsg_len = NLMSG_LENGTH(size), .nlmsg_type = type, .nlmsg_flags = flags, .nlmsg_seq = 7}};
    memcpy(m.b, body, size);
    struct sockaddr_nl k = {.nl_family = AF_NETLINK};
    printf("type %d flags %x: sent %d\n", type, flags, sendto(s, &m, m.h.nlmsg_len, 0, (void *)&k, sizeof k) == (int)m.h.nlmsg_len);
    char b[65536];
    for (int more = 1; more;) {
        struct sockaddr_nl from;
        socklen_t fn = sizeof from;
        int n = recvfrom(s, b, sizeof b, MSG_DONTWAIT, (void *)&from, &fn);
        if (n < 0) { printf("  %s\n", err(n)); break; }
        more = 0;
        for (struct nlmsghdr *h = (void *)b; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
            if (h->nlmsg_flags & NLM_F_MULTI && h->nlmsg_type != NLMSG_DONE) more = 1;
            if (h->nlmsg_type == RTM_NEWLINK) {
                struct ifinfomsg *i = NLMSG_DATA(h);
                if (i->ifi_index == 1) printf("  link type %d flags %x seq %d multi %d\n", i->ifi_type, i->ifi_flags, h->nlmsg_seq, !!(h->nlmsg_flags & NLM_F_MULTI));
            } else if (h->nlmsg_type == RTM_NEWADDR) {
                struct ifaddrmsg *i = NLMSG_DATA(h);
                if (i->ifa_index == 1) printf("  addr family %d prefix %d scope %d flags %x\n", i->ifa_family, i->ifa_prefixlen, i->ifa_scope, i->ifa_flags);
            } else if (h->nlmsg_type == NLMSG_ERROR) {
                struct nlmsgerr *e = NLMSG_DATA(h);
                printf("  error %s len %d seq %d type %d\n", e->error ? strerrorname_np(-e->error) : "0", h->nlmsg_len, e->msg.nlmsg_seq, e->msg.nlmsg_type);
            } else if (h->nlmsg_type == NLMSG_DONE) printf("  done len %d\n", h->nlmsg_len), more = 0;
        }
    }
}
int main(void) {
    s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    struct sockaddr_nl a = {.nl_family = AF_NETLINK}, b;
    socklen_t n = sizeof b;
    SHOW(getsockname(s, (void *)&b, &n));
    printf("len %d pid %d\n", (int)n, b.nl_pid);
    SHOW(bind(s, (void *)&a, sizeof a));
    SHOW(bind(s, (void *)&a, 5));
    getsockname(s, (void *)&b, &n);
    printf("pid is ours %d\n", b.nl_pid == getpid());
    int t = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE);
    bind(t, (void *)&a, sizeof a);
    getsockname(t, (void *)&b, &n);
    printf("pid is ours %d\n", b.nl_pid == getpid());
    a.nl_pid = getpid();
    close(t);
    t = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE);
    SHOW(bind(t, (void *)&a, sizeof a));
    struct ifinfomsg link = {.ifi_family = AF_UNSPEC};
    request(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, &link, sizeof link);
    link.ifi_index = 1;
    request(RTM_GETLINK, NLM_F_REQUEST, &link, sizeof link);
    request(RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, &link, sizeof link);
    link.ifi_index = 4711;
    request(RTM_GETLINK, NLM_F_REQUEST, &link, sizeof link);
    request(RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, &link, 4);
    request(3000, NLM_F_REQUEST | NLM_F_ACK, &link, sizeof link);
    request(RTM_GETLINK, NLM_F_ACK, &link, sizeof link);
    struct ifaddrmsg addr = {.ifa_family = AF_INET};
    request(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, &addr, sizeof addr);
    events("empty", s);
    struct ifaddrs *list, *i;
    SHOW(getifaddrs(&list));
    for (i = list; i; i = i->ifa_next)
        if (!strcmp(i->ifa_name, "lo")) printf("lo flags %x family %d\n", i->ifa_flags, i->ifa_addr ? i->ifa_addr->sa_family : -1);
    struct if_nameindex *ni = if_nameindex();
    printf("%d %s\n", ni[0].if_index, ni[0].if_name);
    int on = 1, v;
    SHOW(setsockopt(s, SOL_NETLINK, NETLINK_EXT_ACK, &on, 4));
    SHOW(setsockopt(s, SOL_NETLINK, NETLINK_CAP_ACK, &on, 4));
    SHOW(setsockopt(s, SOL_NETLINK, 99, &on, 4));
    n = 4;
    SHOW(getsockopt(s, SOL_NETLINK, NETLINK_CAP_ACK, &v, &n));
    printf("%d\n", v);
    SHOW(listen(s, 1));
    SHOW(accept(s, 0, 0));
    SHOW(shutdown(s, 0));
    SHOW(socket(AF_NETLINK, SOCK_STREAM, 0));
    SHOW(socket(AF_NETLINK, SOCK_RAW, 31));
    SHOW(socket(AF_NETLINK, SOCK_RAW, 77));
    SHOW(socketpair(AF_NETLINK, SOCK_RAW, 0, (int[2]){0, 0}));
    return 0;
}
