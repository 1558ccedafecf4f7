#include "unix_common.h"
/* SCM_RIGHTS: passing, truncation, close-on-exec, peeking, cycles. */
static int send_fds(int s, const char *data, int len, int *fds, int n) {
    char c[CMSG_SPACE(sizeof(int) * 300)];
    memset(c, 0, sizeof c);
    struct iovec iov = {(void *)data, len};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = c, .msg_controllen = CMSG_SPACE(4 * n)};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET; h->cmsg_type = SCM_RIGHTS; h->cmsg_len = CMSG_LEN(4 * n);
    memcpy(CMSG_DATA(h), fds, 4 * n);
    return sendmsg(s, &m, MSG_DONTWAIT);
}
static int got[300];
static int recv_fds(int s, int len, int room, int flags) {
    char c[4096], b[256];
    memset(c, 0, sizeof c);
    struct iovec iov = {b, len};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = c, .msg_controllen = room};
    int r = recvmsg(s, &m, flags | MSG_DONTWAIT);
    int n = 0;
    if (r >= 0)
        for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
            printf("cmsg level %d type %d len %d\n", h->cmsg_level, h->cmsg_type, (int)h->cmsg_len);
            if (h->cmsg_type == SCM_RIGHTS) { n = (h->cmsg_len - CMSG_LEN(0)) / 4; memcpy(got, CMSG_DATA(h), 4 * n); }
        }
    printf("recv %d %s fds %d flags %x controllen %d\n", r, err(r), n, m.msg_flags & ~MSG_CMSG_CLOEXEC, (int)m.msg_controllen);
    return n;
}
static int count(void) { int n = 0; for (int i = 0; i < 1000; i++) if (fcntl(i, F_GETFD) >= 0) n++; return n; }
int main(void) {
    int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    for (int t = 0; t < 3; t++) {
        int s[2], p[2];
        socketpair(AF_UNIX, types[t], 0, s);
        pipe(p);
        int base = count();
        SHOW(send_fds(s[0], "a", 1, p, 2));
        int n = recv_fds(s[1], 10, 200, 0);
        write(got[1], "through", 7);
        char b[16] = {0};
        printf("%zd %s cloexec %d\n", read(p[0], b, 7), b, fcntl(got[0], F_GETFD));
        for (int i = 0; i < n; i++) close(got[i]);
        SHOW(send_fds(s[0], "b", 1, p, 2));
        n = recv_fds(s[1], 10, 200, MSG_PEEK);
        for (int i = 0; i < n; i++) close(got[i]);
        n = recv_fds(s[1], 10, 200, MSG_CMSG_CLOEXEC);
        printf("cloexec %d\n", fcntl(got[0], F_GETFD));
        for (int i = 0; i < n; i++) close(got[i]);
        for (int room = 0; room <= 32; room += 4) {
            send_fds(s[0], "c", 1, p, 2);
            n = recv_fds(s[1], 10, room, 0);
            for (int i = 0; i < n; i++) close(got[i]);
        }
        send_fds(s[0], "d", 1, p, 2);
        SHOW(read(s[1], b, 10));
        printf("leaked %d\n", count() - base);
        int bad = 77;
        SHOW(send_fds(s[0], "e", 1, &bad, 1));
        int many[254];
        for (int i = 0; i < 254; i++) many[i] = p[0];
        SHOW(send_fds(s[0], "f", 1, many, 254));
        SHOW(send_fds(s[0], "g", 1, many, 253));
        n = recv_fds(s[1], 10, 4096, 0);
        for (int i = 0; i < n; i++) close(got[i]);
        printf("leaked %d\n", count() - base);
        /* boundaries of a stream */
        send(s[0], "12", 2, 0);
        send_fds(s[0], "34", 2, p, 1);
        send_fds(s[0], "56", 2, p, 1);
        send(s[0], "78", 2, 0);
        for (int k = 0; k < 4; k++) { n = recv_fds(s[1], 10, 200, 0); for (int i = 0; i < n; i++) close(got[i]); }
        SHOW(send_fds(s[0], "", 0, p, 1));
        n = recv_fds(s[1], 10, 200, 0);
        for (int i = 0; i < n; i++) close(got[i]);
        /* a pipe end that lives only in flight */
        close(p[1]);
        close(s[0]); close(s[1]);
        SHOW(read(p[0], b, 1));
        close(p[0]);
    }
    /* cycles */
    for (int k = 0; k < 50; k++) {
        int s[2], p[2];
        socketpair(AF_UNIX, SOCK_STREAM, 0, s);
        pipe(p);
        send_fds(s[0], "x", 1, s, 2);
        send_fds(s[1], "x", 1, s, 2);
        send_fds(s[1], "x", 1, p + 1, 1);
        close(s[0]); close(s[1]); close(p[1]);
        int t[2];
        socketpair(AF_UNIX, SOCK_STREAM, 0, t);
        close(t[0]); close(t[1]);
        if (k == 0) {
            struct pollfd f = {.fd = p[0], .events = POLLIN};
            printf("collected %d %x\n", poll(&f, 1, 2000), f.revents);
        }
        close(p[0]);
    }
    return 0;
}
