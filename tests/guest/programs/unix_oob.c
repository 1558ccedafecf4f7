#include "inet_common.h"
/* MSG_OOB on stream sockets of AF_UNIX (Linux 5.15). */
static volatile int urgs;
static void on_urg(int s) { urgs++; }
static int mark(int s) { int m = -1; return ioctl(s, SIOCATMARK, &m) < 0 ? -errno : m; }
static void pair(int p[2]) { socketpair(AF_UNIX, SOCK_STREAM, 0, p); fcntl(p[1], F_SETOWN, getpid()); }
static void take(int s, int n, int flags) {
    char b[64];
    int r = recv(s, b, n, flags | MSG_DONTWAIT);
    if (r < 0) printf("  recv(%d, %#x) = %s\n", n, flags, strerror(errno));
    else printf("  recv(%d, %#x) = %d \"%.*s\"\n", n, flags, r, r, b);
}
int main(void) {
    int p[2], n;
    signal(SIGURG, on_urg);
    pair(p);
    take(p[1], 1, MSG_OOB);
    SHOW(send(p[0], "abcX", 4, MSG_OOB));
    printf("signals %d\n", urgs);
    events("urgent", p[1]);
    printf("mark %d\n", mark(p[1]));
    ioctl(p[1], FIONREAD, &n); printf("inq %d\n", n);
    take(p[1], 10, MSG_PEEK);
    take(p[1], 10, 0);
    printf("mark %d\n", mark(p[1]));
    events("at mark", p[1]);
    take(p[1], 10, MSG_OOB | MSG_PEEK);
    take(p[1], 10, MSG_OOB);
    take(p[1], 10, MSG_OOB);
    printf("mark %d\n", mark(p[1]));
    events("taken", p[1]);
    SHOW(send(p[0], "def", 3, 0));
    printf("mark %d\n", mark(p[1]));
    take(p[1], 10, 0);
    puts("not taken:");
    SHOW(send(p[0], "12Y", 3, MSG_OOB));
    SHOW(send(p[0], "34", 2, 0));
    take(p[1], 10, 0);
    printf("mark %d\n", mark(p[1]));
    take(p[1], 10, 0);
    take(p[1], 10, MSG_OOB);
    puts("two urgent bytes:");
    SHOW(send(p[0], "aU", 2, MSG_OOB));
    SHOW(send(p[0], "bV", 2, MSG_OOB));
    printf("signals %d\n", urgs);
    take(p[1], 10, 0);
    take(p[1], 10, MSG_OOB);
    take(p[1], 10, 0);
    close(p[0]); close(p[1]);
    puts("inline:");
    pair(p);
    int on = 1;
    SHOW(setsockopt(p[1], SOL_SOCKET, SO_OOBINLINE, &on, 4));
    SHOW(send(p[0], "12Z", 3, MSG_OOB));
    SHOW(send(p[0], "34", 2, 0));
    take(p[1], 1, MSG_OOB);
    printf("mark %d\n", mark(p[1]));
    take(p[1], 10, 0);
    printf("mark %d\n", mark(p[1]));
    take(p[1], 10, 0);
    close(p[0]); close(p[1]);
    puts("alone, then end:");
    pair(p);
    SHOW(send(p[0], "Q", 1, MSG_OOB));
    printf("mark %d\n", mark(p[1]));
    events("alone", p[1]);
    SHOW(shutdown(p[0], SHUT_WR));
    events("end", p[1]);
    take(p[1], 10, 0);
    take(p[1], 1, MSG_OOB);
    take(p[1], 10, 0);
    close(p[0]); close(p[1]);
    puts("other types:");
    socketpair(AF_UNIX, SOCK_DGRAM, 0, p);
    SHOW(send(p[0], "x", 1, MSG_OOB));
    take(p[1], 1, MSG_OOB);
    socketpair(AF_UNIX, SOCK_SEQPACKET, 0, p);
    SHOW(send(p[0], "x", 1, MSG_OOB));
    take(p[1], 1, MSG_OOB);
    return 0;
}
