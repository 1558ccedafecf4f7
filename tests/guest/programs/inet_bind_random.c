/* Which binds and listens go together: random ones on two ports, of IPv4, IPv6 and mapped addresses, with and without
   SO_REUSEADDR, SO_REUSEPORT, IPV6_V6ONLY, in a network of its own.  Then ports of the kernel's choice when they are few.
   With an argument some UDP sockets have SO_REUSEPORT and others of the same port have not: kernels differ there. */
#include "inet_common.h"
#include <net/if.h>
static unsigned long rs;
static unsigned rnd(unsigned n) { rs = rs * 6364136223846793005UL + 1442695040888963407UL; return (rs >> 33) % n; }
static const char *addrs[] = {"0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1", "::ffff:0.0.0.0", "::ffff:127.0.0.1"};
int main(int argc, char **argv) {
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    unshare(CLONE_NEWUSER | CLONE_NEWNET);
    SHOW(ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCSIFFLAGS, &lo));
    for (int seed = 0; seed < 150; seed++) {
        rs = seed * 7919 + 13; rnd(2); rnd(2);
        int base = 20001 + seed * 3, udp = seed % 3 == 0;
        int s[12], fam[12], n = 0;
        printf("seed %d\n", seed);
        for (int step = 0; step < 40; step++) {
            int op = rnd(12);
            if (op < 5 && n < 12) {
                int ai = rnd(7); if (rnd(3) == 0) ai = rnd(2) ? 3 : 0;
                fam[n] = ai < 3 ? AF_INET : AF_INET6;
                s[n] = socket(fam[n], udp ? SOCK_DGRAM : SOCK_STREAM, 0);
                int one = 1, r1 = rnd(2), r2 = (rnd(4) == 0) && (seed % 2 || udp), r3 = rnd(4) == 0, p = base + rnd(2), r;
                if (udp && argc < 2) r2 = seed % 2;
                if (r1) setsockopt(s[n], SOL_SOCKET, SO_REUSEADDR, &one, 4);
                if (r2) setsockopt(s[n], SOL_SOCKET, SO_REUSEPORT, &one, 4);
                if (r3 && fam[n] == AF_INET6) setsockopt(s[n], IPPROTO_IPV6, IPV6_V6ONLY, &one, 4);
                if (fam[n] == AF_INET) { struct sockaddr_in a = in4(addrs[ai], p); r = bind(s[n], (void*)&a, sizeof a); }
                else { struct sockaddr_in6 a = in6(addrs[ai], p); r = bind(s[n], (void*)&a, sizeof a); }
                printf("%d.%d new %s port %d reuse %d rport %d v6only %d: %s\n", seed, n, addrs[ai], p - base, r1, r2, r3 && fam[n] == AF_INET6, err(r));
                n++;
            } else if (op < 7 && n && !udp) { int i = rnd(n); int r = listen(s[i], 5); printf("%d.%d listen: %s\n", seed, i, err(r)); }
            else if (op == 10 && n) { int i = rnd(n); close(s[i]); printf("%d.%d close\n", seed, i); s[i] = s[n-1]; fam[i] = fam[n-1]; n--; }
            else if (n) { int i = rnd(n), v = rnd(2), o = rnd(2) || (udp && argc < 2) ? SO_REUSEADDR : SO_REUSEPORT; setsockopt(s[i], SOL_SOCKET, o, &v, 4); printf("%d.%d set %d %d\n", seed, i, o, v); }
        }
        while (n) close(s[--n]);
    }
    /* Every port of a small range is used by IPv4; IPv6 without IPv4 has them all again. */
    int fd = open("/proc/sys/net/ipv4/ip_local_port_range", O_WRONLY);
    SHOW(write(fd, "40000 40009", 11));
    for (int kind = 0; kind < 2; kind++) {
        int type = kind ? SOCK_DGRAM : SOCK_STREAM, count[4] = {0};
        for (int i = 0; i < 12; i++)
            count[0] += bound(socket(AF_INET, type, 0), "127.0.0.1") > 0;
        for (int which = 1; which < 4; which++)
            for (int i = 0; i < 12; i++) {
                struct sockaddr_in6 a = in6(which == 1 ? "::1" : which == 2 ? "::ffff:127.0.0.2" : "::", 0);
                count[which] += bind(socket(AF_INET6, type, 0), (void *)&a, sizeof a) == 0;
            }
        printf("bound %d, ::1 %d, mapped %d, :: %d: %s\n", count[0], count[1], count[2], count[3], strerrorname_np(errno));
    }
    return 0;
}
