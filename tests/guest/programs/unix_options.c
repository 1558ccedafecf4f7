#include "unix_common.h"
/* Every option at SOL_SOCKET: values, lengths, errors. */
int main(void) {
    int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    int skip[] = {SO_COOKIE, 71 /* NETNS_COOKIE */, 55 /* MEMINFO */, SO_INCOMING_CPU, 46, 69, 70, 72, 73, 74, 75, 76, 77, 78, 79, 80, 56, 40, 34, 31, 16, 37, 65, 49, 61, 68, 48, 26, 27, 50, 51, 52};
    for (int t = 0; t < 3; t++) {
        int s = socket(AF_UNIX, types[t], 0);
        for (int name = 1; name <= 81; name++) {
            int bad = 0;
            for (unsigned i = 0; i < sizeof skip / sizeof *skip; i++) if (skip[i] == name) bad = 1;
            if (bad) continue;
            unsigned char v[64];
            memset(v, 0x5a, sizeof v);
            socklen_t n = 32;
            errno = 0;
            int r = getsockopt(s, SOL_SOCKET, name, v, &n);
            printf("%d: %d %s len %d", name, r, err(r), n);
            if (r == 0) for (int i = 0; i < (int)n; i++) printf(" %02x", v[i]);
            n = 2;
            r = getsockopt(s, SOL_SOCKET, name, v, &n);
            printf(" | %d %d", r, n);
            int one = 1;
            errno = 0;
            r = setsockopt(s, SOL_SOCKET, name, &one, 2);
            printf(" | %s", err(r));
            if (name != SO_BINDTODEVICE && name != SO_MARK && name != SO_PRIORITY && name != 32 && name != 33 && name != SO_DEBUG && name != 62 && name != 47) {
                r = setsockopt(s, SOL_SOCKET, name, &one, 4);
                printf(" | %s", err(r));
                n = 4; int back = -7;
                r = getsockopt(s, SOL_SOCKET, name, &back, &n);
                printf(" back %d", r == 0 ? back : -1);
            }
            printf("\n");
        }
        int v;
        socklen_t n = 4;
        TRY(getsockopt(s, 1, 9999, &v, &n));
        TRY(getsockopt(s, 6, 1, &v, &n));
        TRY(getsockopt(s, 0, 1, &v, &n));
        TRY(setsockopt(s, 6, 1, &v, 4));
        n = -1;
        TRY(getsockopt(s, 1, SO_TYPE, &v, &n));
        n = 4;
        TRY(getsockopt(s, 1, SO_TYPE, (void *)8, &n));
        TRY(getsockopt(s, 1, SO_TYPE, &v, (void *)8));
        TRY(setsockopt(s, 1, SO_REUSEADDR, (void *)8, 4));
        TRY(setsockopt(s, 1, SO_REUSEADDR, &v, -1));
        struct linger l = {1, 5};
        n = sizeof l;
        TRY(setsockopt(s, 1, SO_LINGER, &l, sizeof l));
        l.l_onoff = l.l_linger = 9;
        TRY(getsockopt(s, 1, SO_LINGER, &l, &n));
        printf("%d %d\n", l.l_onoff, l.l_linger);
        struct timeval tv = {1, 500000}, back;
        n = sizeof back;
        setsockopt(s, 1, SO_RCVTIMEO, &tv, sizeof tv);
        getsockopt(s, 1, SO_RCVTIMEO, &back, &n);
        printf("%ld %ld\n", (long)back.tv_sec, (long)back.tv_usec);
    }
    return 0;
}
