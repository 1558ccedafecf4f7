#include "inet_common.h"
/* MSG_WAITALL with MSG_PEEK, with control messages, cut short by the end or by a limit, on TCP and Unix streams. */
static void later(int s, int end) {
    fflush(stdout);
    if (fork() == 0) {
        for (int i = 0; i < 3; i++) { usleep(8000); send(s, "abcd", 4, MSG_NOSIGNAL); }
        usleep(8000);
        if (end) shutdown(s, SHUT_WR);
        _exit(0);
    }
}
int main(void) {
    for (int k = 0; k < 2; k++) {
        int p[2];
        char b[32];
        if (k) tcp_pair(p); else socketpair(AF_UNIX, SOCK_STREAM, 0, p);
        later(p[0], 0);
        SHOW(recv(p[1], b, 12, MSG_WAITALL));
        wait(0);
        struct iovec v[2] = {{b, 5}, {b + 5, 7}};
        struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
        later(p[0], 0);
        SHOW(recvmsg(p[1], &m, MSG_WAITALL));
        printf("%.12s\n", b);
        wait(0);
        {
            later(p[0], 0);
            SHOW(recv(p[1], b, 12, MSG_WAITALL | MSG_PEEK));
            wait(0);
            SHOW(recv(p[1], b, 12, MSG_WAITALL));
        }
        struct timeval tv = {0, 20000};
        setsockopt(p[1], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
        send(p[0], "ab", 2, 0);
        SHOW(recv(p[1], b, 12, MSG_WAITALL));
        SHOW(recv(p[1], b, 12, MSG_WAITALL));
        tv.tv_usec = 0;
        setsockopt(p[1], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
        later(p[0], 1);
        SHOW(recv(p[1], b, 30, MSG_WAITALL));
        wait(0);
        SHOW(recv(p[1], b, 30, MSG_WAITALL));
    }
    return 0;
}
