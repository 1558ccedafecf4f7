#include "inet_common.h"
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
/* SIOCETHTOOL for lo: what anybody may read, what wants CAP_NET_ADMIN, and names and buffers that are not there. */
static int ask(int fd, const char *name, unsigned command, unsigned *value) {
    struct ethtool_value v = {command, 7};
    struct ifreq r;
    memset(&r, 0, sizeof r);
    strcpy(r.ifr_name, name);
    r.ifr_data = (void *)&v;
    int got = ioctl(fd, SIOCETHTOOL, &r);
    *value = v.data;
    return got;
}
int main(void) {
    unsigned value, reads[] = {ETHTOOL_GLINK, ETHTOOL_GRXCSUM, ETHTOOL_GTXCSUM, ETHTOOL_GSG, ETHTOOL_GTSO, ETHTOOL_GGSO,
                               ETHTOOL_GGRO, ETHTOOL_GFLAGS};
    unsigned char room[512];
    struct ifreq r;
    int kinds[] = {AF_INET, AF_INET6, AF_UNIX};
    SHOW(setresuid(65534, 65534, 65534));
    for (int kind = 0; kind < 3; kind++) {
        int fd = socket(kinds[kind], SOCK_DGRAM, 0);
        for (unsigned i = 0; i < sizeof reads / sizeof *reads; i++) {
            SHOW(ask(fd, "lo", reads[i], &value));
            printf("%#x: %u\n", reads[i], value);
        }
        SHOW(ask(fd, "none", ETHTOOL_GLINK, &value));
        SHOW(ask(fd, "lo:1", ETHTOOL_GLINK, &value));
        for (unsigned command = 0; command < 0x52; command++) {
            if (command == ETHTOOL_GFEATURES || command == ETHTOOL_GPERMADDR) continue; /* below */
            if (command == ETHTOOL_GET_TS_INFO) continue;   /* kernels differ */
            memset(room, 0, sizeof room);
            memcpy(room, &command, 4);
            memset(&r, 0, sizeof r);
            strcpy(r.ifr_name, "lo");
            r.ifr_data = (void *)room;
            int got = ioctl(fd, SIOCETHTOOL, &r);
            printf("%#x: %d %d\n", command, got, got < 0 ? errno : 0);
        }
        strcpy(r.ifr_name, "lo");
        r.ifr_data = (void *)8;
        SHOW(ioctl(fd, SIOCETHTOOL, &r));
        strcpy(r.ifr_name, "none");
        SHOW(ioctl(fd, SIOCETHTOOL, &r));
        SHOW(ioctl(fd, SIOCETHTOOL, 8));
        memset(room, 0xff, sizeof room);
        struct ethtool_perm_addr *address = (void *)room;
        strcpy(r.ifr_name, "lo");
        r.ifr_data = (void *)room;
        for (unsigned size = 4; size <= 8; size += 2) {
            address->cmd = ETHTOOL_GPERMADDR, address->size = size;
            int got = ioctl(fd, SIOCETHTOOL, &r);
            printf("%d %d: %u", got, got < 0 ? errno : 0, address->size);
            for (int i = 0; i < 10; i++) printf(" %02x", room[8 + i]);
            printf("\n");
        }
        close(fd);
    }
    return 0;
}
