#include "inet_common.h"
/* The sources that are received in a multicast group: sources that are added, blocked, and given as a whole, of IPv4
 * and IPv6. */
#include <netinet/in.h>
#include <stdlib.h>

static int port, rx, other;

static int source4(int name, const char *group, const char *source, const char *interface)
{
    struct ip_mreq_source r = {0};
    inet_pton(AF_INET, group, &r.imr_multiaddr);
    inet_pton(AF_INET, source, &r.imr_sourceaddr);
    inet_pton(AF_INET, interface, &r.imr_interface);
    return setsockopt(rx, IPPROTO_IP, name, &r, sizeof r);
}

static int source_any(int fd, int level, int name, int family, const char *group, const char *source, int index)
{
    struct group_source_req r = {.gsr_interface = index};
    r.gsr_group.ss_family = r.gsr_source.ss_family = family;
    void *g = family == AF_INET ? (void *)&((struct sockaddr_in *)&r.gsr_group)->sin_addr
                                : (void *)&((struct sockaddr_in6 *)&r.gsr_group)->sin6_addr;
    void *s = family == AF_INET ? (void *)&((struct sockaddr_in *)&r.gsr_source)->sin_addr
                                : (void *)&((struct sockaddr_in6 *)&r.gsr_source)->sin6_addr;
    inet_pton(family, group, g);
    inet_pton(family, source, s);
    return setsockopt(fd, level, name, &r, sizeof r);
}

static int filter4(const char *group, unsigned mode, unsigned count, unsigned said, int cut)
{
    char raw[IP_MSFILTER_SIZE(20)] = {0};
    struct ip_msfilter *f = (void *)raw;
    inet_pton(AF_INET, group, &f->imsf_multiaddr);
    inet_pton(AF_INET, "127.0.0.1", &f->imsf_interface);
    f->imsf_fmode = mode;
    f->imsf_numsrc = said;
    for (unsigned i = 0; i < count; i++)
        f->imsf_slist[i].s_addr = htonl(0x7f000002 + i);
    return setsockopt(rx, IPPROTO_IP, IP_MSFILTER, raw, IP_MSFILTER_SIZE(count) - cut);
}

static int filter_any(int fd, int level, int family, const char *group, unsigned mode, unsigned count, const char *source)
{
    static char raw[GROUP_FILTER_SIZE(80)];
    struct group_filter *f = (void *)raw;
    memset(raw, 0, sizeof raw);
    f->gf_interface = 1;
    f->gf_group.ss_family = family;
    inet_pton(family, group, family == AF_INET ? (void *)&((struct sockaddr_in *)&f->gf_group)->sin_addr
                                               : (void *)&((struct sockaddr_in6 *)&f->gf_group)->sin6_addr);
    f->gf_fmode = mode;
    f->gf_numsrc = count;
    for (unsigned i = 0; i < count; i++) {
        struct sockaddr_storage *s = (struct sockaddr_storage *)(raw + GROUP_FILTER_SIZE(0)) + i;
        s->ss_family = family;
        inet_pton(family, source, family == AF_INET ? (void *)&((struct sockaddr_in *)s)->sin_addr
                                                    : (void *)&((struct sockaddr_in6 *)s)->sin6_addr);
        if (family == AF_INET)
            ((struct sockaddr_in *)s)->sin_addr.s_addr += htonl(i);
        else
            ((struct sockaddr_in6 *)s)->sin6_addr.s6_addr[15] += i;
    }
    return setsockopt(fd, level, MCAST_MSFILTER, raw, GROUP_FILTER_SIZE(count));
}

/* The filter of a group as the socket returns it, with room for some sources. */
static void read4(const char *group, const char *interface, unsigned room, int length)
{
    unsigned char raw[256];
    struct ip_msfilter *f = (void *)raw;
    socklen_t size = length;
    memset(raw, 0xaa, sizeof raw);
    inet_pton(AF_INET, group, &f->imsf_multiaddr);
    inet_pton(AF_INET, interface, &f->imsf_interface);
    f->imsf_numsrc = room;
    int result = getsockopt(rx, IPPROTO_IP, IP_MSFILTER, raw, &size);
    printf("filter of %s: %s size %u:", group, result ? strerrorname_np(errno) : "-", size);
    for (int i = 8; result == 0 && i < 16 + 4 * room && i < 40; i++)
        printf(" %02x", raw[i]);
    printf("\n");
}

static void read_any(int fd, int level, int family, const char *group, int index, unsigned room, int length)
{
    static unsigned char raw[4096];
    struct group_filter *f = (void *)raw;
    socklen_t size = length;
    memset(raw, 0xaa, sizeof raw);
    f->gf_interface = index;
    f->gf_group.ss_family = family;
    inet_pton(family, group, family == AF_INET ? (void *)&((struct sockaddr_in *)&f->gf_group)->sin_addr
                                               : (void *)&((struct sockaddr_in6 *)&f->gf_group)->sin6_addr);
    f->gf_numsrc = room;
    int result = getsockopt(fd, level, MCAST_MSFILTER, raw, &size);
    printf("filter of %s: %s size %u mode %d sources %u:", group, result ? strerrorname_np(errno) : "-", size, f->gf_fmode, f->gf_numsrc);
    for (unsigned i = 0; result == 0 && i < room && i < f->gf_numsrc && i < 3; i++) {
        unsigned char *at = raw + GROUP_FILTER_SIZE(i);
        int sum = 0;
        for (int k = 28; k < 128; k++)
            sum += at[k];
        for (int k = 0; k < 24; k++)
            printf(" %02x", at[k]);
        printf(" (%d)", sum);
    }
    printf("\n");
}

/* Which of three datagrams, each from another address, are received. */
static void hear(const char *what)
{
    char buf[8] = "";
    printf("%s:", what);
    for (int i = 1; i < 4; i++) {
        char from[16];
        sprintf(from, "127.0.0.%d", i);
        int s = socket(AF_INET, SOCK_DGRAM, 0);
        struct sockaddr_in a = in4(from, 0), group = in4("239.1.2.3", port);
        struct ip_mreqn r = {.imr_ifindex = 1};
        bind(s, (void *)&a, sizeof a);
        setsockopt(s, IPPROTO_IP, IP_MULTICAST_IF, &r, sizeof r);
        int sent = sendto(s, from, 9, 0, (void *)&group, sizeof group);
        int n = recv(rx, buf, 8, MSG_DONTWAIT), m = recv(other, buf, 8, MSG_DONTWAIT);
        printf(" %d %d %d", sent, n, m);
        close(s);
    }
    printf("\n");
}

int main(void)
{
    int on = 1;
    rx = socket(AF_INET, SOCK_DGRAM, 0);
    other = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(rx, SOL_SOCKET, SO_REUSEADDR, &on, 4);
    setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &on, 4);
    port = bound(rx, "0.0.0.0");
    struct sockaddr_in any = in4("0.0.0.0", port);
    SHOW(bind(other, (void *)&any, sizeof any));
    hear("not joined");

    SHOW(source4(IP_BLOCK_SOURCE, "239.1.2.3", "127.0.0.2", "127.0.0.1"));
    SHOW(source4(IP_DROP_SOURCE_MEMBERSHIP, "239.1.2.3", "127.0.0.2", "127.0.0.1"));
    SHOW(source4(IP_ADD_SOURCE_MEMBERSHIP, "127.0.0.9", "127.0.0.2", "127.0.0.1"));
    SHOW(source4(IP_ADD_SOURCE_MEMBERSHIP, "239.1.2.3", "127.0.0.2", "198.51.100.7"));
    SHOW(source4(IP_ADD_SOURCE_MEMBERSHIP, "239.1.2.3", "127.0.0.2", "127.0.0.1"));
    hear("one source");
    SHOW(source4(IP_ADD_SOURCE_MEMBERSHIP, "239.1.2.3", "127.0.0.2", "127.0.0.1"));
    SHOW(source4(IP_BLOCK_SOURCE, "239.1.2.3", "127.0.0.2", "127.0.0.1"));
    SHOW(source4(IP_ADD_SOURCE_MEMBERSHIP, "239.1.2.3", "127.0.0.3", "127.0.0.1"));
    hear("two sources");
    struct ip_mreqn join = {.imr_ifindex = 1};
    inet_pton(AF_INET, "239.1.2.3", &join.imr_multiaddr);
    SHOW(setsockopt(rx, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join));
    SHOW(source4(IP_DROP_SOURCE_MEMBERSHIP, "239.1.2.3", "127.0.0.2", "127.0.0.1"));
    SHOW(source4(IP_DROP_SOURCE_MEMBERSHIP, "239.1.2.3", "127.0.0.2", "127.0.0.1"));
    hear("the other");
    SHOW(source4(IP_DROP_SOURCE_MEMBERSHIP, "239.1.2.3", "127.0.0.3", "127.0.0.1"));
    hear("left");
    SHOW(setsockopt(rx, IPPROTO_IP, IP_DROP_MEMBERSHIP, &join, sizeof join));

    SHOW(setsockopt(rx, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join));
    hear("all");
    SHOW(source4(IP_UNBLOCK_SOURCE, "239.1.2.3", "127.0.0.2", "127.0.0.1"));
    SHOW(source4(IP_BLOCK_SOURCE, "239.1.2.3", "127.0.0.2", "127.0.0.1"));
    hear("one blocked");
    SHOW(source4(IP_BLOCK_SOURCE, "239.1.2.3", "127.0.0.2", "127.0.0.1"));
    SHOW(source4(IP_ADD_SOURCE_MEMBERSHIP, "239.1.2.3", "127.0.0.2", "127.0.0.1"));
    SHOW(source4(IP_UNBLOCK_SOURCE, "239.1.2.3", "127.0.0.2", "127.0.0.1"));
    hear("none blocked");
    SHOW(source4(IP_ADD_SOURCE_MEMBERSHIP, "239.1.2.3", "127.0.0.1", "127.0.0.1"));
    hear("turned round");

    SHOW(filter4("239.1.2.3", MCAST_INCLUDE, 2, 2, 0));
    hear("filter");
    SHOW(filter4("239.1.2.3", MCAST_EXCLUDE, 1, 1, 0));
    hear("filter of the others");
    SHOW(filter4("239.1.2.3", MCAST_EXCLUDE, 0, 0, 0));
    hear("empty filter");
    SHOW(filter4("239.1.2.3", 2, 1, 1, 0));
    SHOW(filter4("239.1.2.3", MCAST_INCLUDE, 11, 11, 0));
    SHOW(filter4("239.1.2.3", MCAST_INCLUDE, 10, 10, 0));
    SHOW(source4(IP_ADD_SOURCE_MEMBERSHIP, "239.1.2.3", "127.0.0.99", "127.0.0.1"));
    SHOW(filter4("239.1.2.3", MCAST_INCLUDE, 2, 3, 0));
    SHOW(filter4("239.1.2.3", MCAST_INCLUDE, 0, 0, 1));
    SHOW(filter4("239.1.2.3", MCAST_INCLUDE, 2, -1, 0));
    SHOW(filter4("239.9.9.9", MCAST_INCLUDE, 2, 2, 0));
    SHOW(filter4("127.0.0.1", MCAST_INCLUDE, 2, 2, 0));
    SHOW(filter4("239.1.2.3", MCAST_INCLUDE, 0, 0, 0));
    SHOW(filter4("239.1.2.3", MCAST_INCLUDE, 0, 0, 0));
    hear("left by a filter");

    SHOW(source_any(rx, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, AF_INET, "239.1.2.3", "127.0.0.3", 1));
    hear("joined in the new way");
    SHOW(source_any(rx, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, AF_INET, "239.1.2.3", "127.0.0.3", 4711));
    SHOW(source_any(rx, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, AF_INET6, "ff02::1:2", "::1", 1));
    SHOW(source_any(rx, IPPROTO_IP, MCAST_BLOCK_SOURCE, AF_INET, "239.1.2.3", "127.0.0.3", 1));
    SHOW(filter_any(rx, IPPROTO_IP, AF_INET, "239.1.2.3", MCAST_EXCLUDE, 1, "127.0.0.1"));
    hear("filtered in the new way");
    read4("239.1.2.3", "127.0.0.1", 3, 28);
    read4("239.1.2.3", "127.0.0.1", 0, 16);
    read4("239.1.2.3", "127.0.0.1", 3, 15);
    read4("239.1.2.4", "127.0.0.1", 3, 28);
    read4("239.1.2.3", "198.51.100.7", 3, 28);
    read4("127.0.0.1", "127.0.0.1", 3, 28);
    read_any(rx, IPPROTO_IP, AF_INET, "239.1.2.3", 1, 3, GROUP_FILTER_SIZE(3));
    read_any(rx, IPPROTO_IP, AF_INET, "239.1.2.3", 4711, 3, GROUP_FILTER_SIZE(3));
    read_any(rx, IPPROTO_IP, AF_INET, "239.1.2.3", 1, 3, 143);
    read_any(rx, IPPROTO_IP, AF_INET, "239.1.2.4", 1, 3, GROUP_FILTER_SIZE(3));
    read_any(rx, IPPROTO_IP, AF_INET6, "ff02::1:2:3", 1, 3, GROUP_FILTER_SIZE(3));
    read_any(rx, IPPROTO_IPV6, AF_INET6, "ff02::1:2:3", 1, 3, GROUP_FILTER_SIZE(3));
    SHOW(filter4("239.1.2.3", MCAST_INCLUDE, 3, 3, 0));
    read4("239.1.2.3", "127.0.0.1", 2, 28);
    read4("239.1.2.3", "127.0.0.1", 4, 32);
    SHOW(filter4("239.1.2.3", MCAST_EXCLUDE, 1, 1, 0));
    SHOW(source_any(rx, IPPROTO_IP, MCAST_UNBLOCK_SOURCE, AF_INET, "239.1.2.3", "127.0.0.1", 1));
    SHOW(source_any(rx, IPPROTO_IP, MCAST_LEAVE_SOURCE_GROUP, AF_INET, "239.1.2.3", "127.0.0.1", 1));
    hear("all again");
    SHOW(setsockopt(rx, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, &join, sizeof join));
    SHOW(setsockopt(rx, IPPROTO_IP, MCAST_MSFILTER, &join, sizeof join));
    SHOW(setsockopt(rx, IPPROTO_IP, IP_BLOCK_SOURCE, &join, 11));

    /* IPv6: nothing is sent, as not every host has a route for it on lo */
    int six = socket(AF_INET6, SOCK_DGRAM, 0);
    for (int step = 0; step < 7; step++) {
        if (step == 0)
            SHOW(source_any(six, IPPROTO_IPV6, MCAST_BLOCK_SOURCE, AF_INET6, "ff02::1:2:3", "::1", 1));
        if (step == 1)
            SHOW(source_any(six, IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP, AF_INET6, "ff02::1:2:3", "fe80::1", 1));
        if (step == 2)
            SHOW(source_any(six, IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP, AF_INET6, "ff02::1:2:3", "::1", 1));
        if (step == 3)
            SHOW(source_any(six, IPPROTO_IPV6, MCAST_LEAVE_SOURCE_GROUP, AF_INET6, "ff02::1:2:3", "::1", 1));
        if (step == 4)
            SHOW(filter_any(six, IPPROTO_IPV6, AF_INET6, "ff02::1:2:3", MCAST_INCLUDE, 64, "::1"));
        if (step == 5)
            SHOW(filter_any(six, IPPROTO_IPV6, AF_INET6, "ff02::1:2:3", MCAST_EXCLUDE, 1, "::1"));
        if (step == 6)
            SHOW(filter_any(six, IPPROTO_IPV6, AF_INET6, "ff02::1:2:3", MCAST_EXCLUDE, 0, "::1"));
        read_any(six, IPPROTO_IPV6, AF_INET6, "ff02::1:2:3", 1, step, GROUP_FILTER_SIZE(step));
        read_any(six, IPPROTO_IPV6, AF_INET6, "ff02::1:2:3", 0, step, GROUP_FILTER_SIZE(step));
        read_any(six, IPPROTO_IPV6, AF_INET, "239.1.2.3", 1, step, GROUP_FILTER_SIZE(step));
        read_any(six, IPPROTO_IP, AF_INET, "239.1.2.3", 1, step, GROUP_FILTER_SIZE(step));
    }
    SHOW(filter_any(six, IPPROTO_IPV6, AF_INET6, "ff02::1:2:3", MCAST_INCLUDE, 65, "::1"));
    SHOW(filter_any(six, IPPROTO_IPV6, AF_INET, "239.1.2.3", MCAST_INCLUDE, 1, "127.0.0.1"));
    SHOW(filter_any(six, IPPROTO_IPV6, AF_INET6, "ff02::1:2:3", 7, 1, "::1"));
    SHOW(filter_any(six, IPPROTO_IPV6, AF_INET6, "::1", MCAST_INCLUDE, 1, "::1"));
    SHOW(filter_any(six, IPPROTO_IPV6, AF_INET6, "ff02::1:2:3", MCAST_INCLUDE, 0, "::1"));
    SHOW(filter_any(six, IPPROTO_IPV6, AF_INET6, "ff02::1:2:3", MCAST_INCLUDE, 0, "::1"));
    SHOW(source_any(six, IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP, AF_INET6, "ff02::1:2:3", "::1", 4711));
    return 0;
}
