/* Options of sockets, by level and name: the result of getsockopt for each length, the values that setsockopt takes,
   the value afterwards. Left out: options that differ by run or by the host's settings, and those that cloche lacks
   (flow labels, option headers, anycast, filters of sources, encapsulation, SO_TXTIME, SO_INQ). */
#include "inet_common.h"
#include <linux/netlink.h>
#include <linux/if_packet.h>
#include <linux/capability.h>
#include <sys/syscall.h>
static const char *names[] = {"tcp6", "udp", "raw", "raw6", "unix", "netlink"};
static int make(int kind) {
    int p[2];
    switch (kind) {
    case 0: return socket(AF_INET6, SOCK_STREAM, 0);
    case 1: return socket(AF_INET, SOCK_DGRAM, 0);
    case 2: return socket(AF_INET, SOCK_RAW, 1);
    case 3: return socket(AF_INET6, SOCK_RAW, 58);
    case 4: socketpair(AF_UNIX, SOCK_STREAM, 0, p); close(p[1]); return p[0];
    default: return socket(AF_NETLINK, SOCK_RAW, 0);
    }
}
static int levels[] = {1, 0, 41, 6, 17, 255, 58, 270, 99};
static int tops[] = {83, 55, 78, 46, 3, 7, 2, 12, 1};
static int left_out(int level, int name) {
    static const short out[][2] = {{1, 26}, {1, 28}, {1, 50}, {1, 51}, {1, 52}, {1, 18}, {1, 47}, {1, 61}, {1, 77}, {1, 78}, {1, 79}, {1, 80},
        {0, 48}, {0, 52}, {41, 1}, {41, 6}, {41, 7}, {41, 17}, {41, 21}, {41, 22}, {41, 27}, {41, 28}, {41, 32}, {41, 42}, {41, 43}, {41, 44}, {41, 45},
        {41, 46}, {41, 47}, {41, 48}, {41, 50}, {41, 54}, {41, 55}, {41, 57}, {41, 59}, {41, 61}, {41, 77}, {6, 13}, {6, 26}, {6, 31}, {6, 36}};
    for (unsigned i = 0; i < sizeof out / sizeof *out; i++) if (out[i][0] == level && out[i][1] == name) return 1;
    return level == 0 && name == 41;
}
static int is_random(int level, int name) {
    return level == 1 && (name == 57 || name == 71 || name == 49 || name == 55 || name==56 || name==17) || level == 6 && (name == 24 || name == 11 || name == 21) ;
}
static void get(int s, int level, int name, int len) {
    unsigned char v[300]; memset(v, 0xEE, sizeof v);
    socklen_t n = len;
    int r = getsockopt(s, level, name, v, &n);
    if (r < 0) { printf(" g%d:%s", len, strerrorname_np(errno)); if (n != len) printf("/%d", n); return; }
    printf(" g%d:%d", len, n);
    if (!is_random(level, name) && n <= 16) { printf("="); for (int i = 0; i < n && i < 12; i++) printf("%02x", v[i]); }
}
/* Most do not exist: of those only some are tried in every way, to save time. */
static int is_unknown(int s, int level, int name) {
    int one = 1;
    char v[300];
    socklen_t n = sizeof v;
    return getsockopt(s, level, name, v, &n) < 0 && (errno == ENOPROTOOPT || errno == EOPNOTSUPP) && setsockopt(s, level, name, &one, 4) < 0 && errno == ENOPROTOOPT;
}
int main(void) {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2] = {{0xa80425fb, 0xa80425fb, 0}, {0, 0, 0}}; /* as an engine gives them */
    syscall(SYS_capset, &h, d);
    int lens[] = {-1, 0, 3, 300}, vals[] = {1, -1, 256}, short_lens[] = {0, 3, 8};
    for (int kind = 0; kind < 6; kind++)
        for (int li = 0; li < 9; li++)
            for (int name = 0; name <= tops[li]; name++) {
                int level = levels[li], s;
                if (left_out(level, name)) continue;
                s = make(kind);
                if (s < 0) continue;
                printf("%s %d.%d:", names[kind], level, name);
                if (name % 8 && is_unknown(s, level, name)) { close(s); printf(" unknown\n"); continue; }
                for (int i = kind < 2 ? 0 : 2; i < 4; i++) get(s, level, name, lens[i]);
                for (int i = 0; i < 6; i++) {
                    if (kind > 1 && (i == 3 || i == 4)) continue; /* lengths are the levels' matter: two kinds show it */
                    int v[75] = {i < 3 ? vals[i] : 0x01010101, 0x01010101};
                    int r = setsockopt(s, level, name, v, i < 3 ? 4 : short_lens[i - 3]);
                    printf(" %d:%s", i, err(r));
                    if (r) continue;
                    get(s, level, name, 4);
                    close(s);
                    s = make(kind);
                }
                close(s);
                printf("\n");
            }
    return 0;
}
