#include "inet_common.h"
/* Which families and types there are, and the errors for the others. */
int main(void) {
    int p[2];
    for (int f = -1; f < 50; f++) {
        if (f == 40 || f == 44) continue; /* AF_VSOCK and AF_XDP are not in every kernel */
        printf("%d:", f);
        for (int t = 0; t < 12; t++) {
            errno = 0;
            int s = socket(f, t, 0);
            printf(" %s", err(s));
            if (s >= 0) close(s);
        }
        errno = 0;
        int r = socketpair(f, SOCK_STREAM, 0, p);
        printf(" pair %s\n", err(r));
        if (r == 0) close(p[0]), close(p[1]);
    }
    for (int protocol = 0; protocol < 300; protocol++)
        for (int t = SOCK_STREAM; t <= SOCK_RAW; t++)
            for (int f = AF_INET; f <= AF_INET6; f += AF_INET6 - AF_INET) {
                if (t == SOCK_DGRAM && (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6)) continue; /* a question of groups */
                if (protocol == 262 || protocol == IPPROTO_SCTP) continue; /* MPTCP, SCTP: modules */
                errno = 0;
                int s = socket(f, t, protocol);
                if (errno != EPROTONOSUPPORT) printf("%d %d %d %s\n", f, t, protocol, err(s));
                if (s >= 0) close(s);
            }
    SHOW(socket(AF_INET, SOCK_STREAM | 0x40, 0));
    SHOW(socket(AF_INET, SOCK_STREAM | 0x100000, 0));
    SHOW(socket(AF_NETLINK, SOCK_RAW, 33));
    SHOW(socket(AF_NETLINK, SOCK_RAW, -1));
    SHOW(socketpair(AF_UNIX, SOCK_STREAM, 5, p));
    SHOW(socketpair(AF_UNIX, SOCK_STREAM, 0, (void *)1));
    return 0;
}
