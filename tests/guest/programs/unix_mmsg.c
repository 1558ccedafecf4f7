#include "unix_common.h"
/* sendmmsg, recvmmsg, gather and scatter, MSG_PEEK and SO_PEEK_OFF. */
int main(void) {
    int s[2];
    socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
    struct mmsghdr m[5];
    struct iovec iov[5][2];
    char text[5][8];
    memset(m, 0, sizeof m);
    for (int i = 0; i < 5; i++) {
        sprintf(text[i], "msg%d", i);
        iov[i][0] = (struct iovec){text[i], 2};
        iov[i][1] = (struct iovec){text[i] + 2, i};
        m[i].msg_hdr.msg_iov = iov[i];
        m[i].msg_hdr.msg_iovlen = 2;
    }
    SHOW(sendmmsg(s[0], m, 5, 0));
    for (int i = 0; i < 5; i++) printf("%d ", m[i].msg_len);
    printf("\n");
    struct mmsghdr r[8];
    struct iovec rv[8];
    char in[8][4];
    memset(r, 0, sizeof r);
    for (int i = 0; i < 8; i++) {
        rv[i] = (struct iovec){in[i], 4};
        r[i].msg_hdr.msg_iov = &rv[i];
        r[i].msg_hdr.msg_iovlen = 1;
    }
    SHOW(recvmmsg(s[1], r, 2, 0, 0));
    SHOW(recvmmsg(s[1], r + 2, 6, MSG_WAITFORONE, 0));
    for (int i = 0; i < 5; i++) printf("%d %x %.*s\n", r[i].msg_len, r[i].msg_hdr.msg_flags, r[i].msg_len, in[i]);
    SHOW(recvmmsg(s[1], r, 2, MSG_DONTWAIT, 0));
    struct timespec ts = {0, 2000000000};
    SHOW(recvmmsg(s[1], r, 2, 0, &ts));
    SHOW(sendmmsg(s[0], m, 0, 0));
    SHOW(sendmmsg(s[0], (void *)8, 1, 0));
    m[2].msg_hdr.msg_iov = (void *)8;
    SHOW(sendmmsg(s[0], m, 5, 0));
    SHOW(sendmmsg(s[0], m + 2, 1, 0));
    struct msghdr h = {.msg_iov = iov[0], .msg_iovlen = 2000};
    SHOW(sendmsg(s[0], &h, 0));
    h.msg_iovlen = 2;
    h.msg_control = text;
    h.msg_controllen = 5;
    SHOW(sendmsg(s[0], &h, 0));
    h.msg_namelen = 5;
    SHOW(sendmsg(s[0], &h, MSG_OOB));
    int p[2], off = 2;
    char b[32];
    socketpair(AF_UNIX, SOCK_STREAM, 0, p);
    write(p[0], "abcdef", 6);
    write(p[0], "ghi", 3);
    SHOW(recv(p[1], b, 32, MSG_PEEK));
    SHOW(setsockopt(p[1], SOL_SOCKET, SO_PEEK_OFF, &off, 4));
    SHOW(recv(p[1], b, 3, MSG_PEEK)); printf("%.3s\n", b);
    SHOW(recv(p[1], b, 3, MSG_PEEK)); printf("%.3s\n", b);
    SHOW(recv(p[1], b, 4, 0)); printf("%.4s\n", b);
    socklen_t n = 4;
    getsockopt(p[1], SOL_SOCKET, SO_PEEK_OFF, &off, &n);
    printf("offset %d\n", off);
    SHOW(recv(p[1], b, 32, MSG_PEEK | MSG_DONTWAIT));
    SHOW(recv(p[1], b, 32, MSG_PEEK | MSG_DONTWAIT));
    SHOW(recv(p[1], b, 32, 0));
    struct iovec many[3] = {{b, 1}, {b + 1, 0}, {b + 2, 3}};
    write(p[0], "wxyz", 4);
    SHOW(readv(p[1], many, 3));
    SHOW(writev(p[0], many, 3));
    SHOW(recv(p[1], b, 0, 0));
    SHOW(read(p[1], b, 0));
    SHOW(recv(p[1], b, 2, MSG_TRUNC));
    SHOW(recv(p[1], b, 2, 0));
    SHOW(send(p[0], (void *)8, 2, 0));
    SHOW(sendto(p[0], "x", 1, 0, (void *)b, 10));
    SHOW(recv(p[1], b, 1, MSG_OOB));
    SHOW(recv(p[1], b, 1, MSG_ERRQUEUE | MSG_DONTWAIT));
    return 0;
}
