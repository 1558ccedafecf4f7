#include "unix_common.h"
/* How much fits, SIOCINQ, SIOCOUTQ, when a socket is writable again, buffer sizes. */
int main(void) {
    int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    int sizes[] = {1, 64, 65, 300, 1000, 2000, 4096, 5000, 8192, 16384, 32768, 65536, 100000, 200000};
    static char b[300000];
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < (int)(sizeof sizes / sizeof *sizes); i++) {
            int s[2], n = 0, oq = 0, iq = 0, oq2 = 0;
            long total = 0, r;
            socketpair(AF_UNIX, types[t] | SOCK_NONBLOCK, 0, s);
            while ((r = write(s[0], b, sizes[i])) > 0) {
                if (!n) ioctl(s[0], SIOCOUTQ, &oq);
                n++; total += r;
                if (r < sizes[i]) break;
            }
            ioctl(s[1], FIONREAD, &iq);
            ioctl(s[0], SIOCOUTQ, &oq2);
            struct pollfd p = {.fd = s[0], .events = POLLOUT};
            int reads = 0;
            while (poll(&p, 1, 0) == 0) { if (read(s[1], b, sizes[i]) <= 0) break; reads++; }
            printf("%d %d: n %d total %ld one %d inq %d outq %d reads %d\n", types[t], sizes[i], n, total, oq, iq, oq2, reads);
            close(s[0]); close(s[1]);
        }
    int s[2], v;
    socklen_t n = sizeof v;
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s);
    getsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &v, &n); printf("%d\n", v);
    getsockopt(s[0], SOL_SOCKET, SO_RCVBUF, &v, &n); printf("%d\n", v);
    int values[] = {0, 1, 2000, 5000, 100000};
    for (int i = 0; i < 5; i++) {
        setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &values[i], 4);
        getsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &v, &n);
        setsockopt(s[0], SOL_SOCKET, SO_RCVBUF, &values[i], 4);
        int w;
        getsockopt(s[0], SOL_SOCKET, SO_RCVBUF, &w, &n);
        printf("%d: %d %d\n", values[i], v, w);
    }
    v = 5000;
    setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &v, 4);
    long total = 0, r;
    while ((r = write(s[0], b, 1000)) > 0) total += r;
    printf("small buffer %ld\n", total);
    SHOW(write(s[0], b, 100000));
    return 0;
}
