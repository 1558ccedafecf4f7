#include "inet_common.h"
/* sendmmsg and recvmmsg over UDP, blocking and with limits; recv that another process wakes. */
int main(void) {
    int s = socket(AF_INET, SOCK_DGRAM, 0), c = socket(AF_INET, SOCK_DGRAM, 0);
    int port = bound(s, "127.0.0.1");
    struct sockaddr_in a = in4("127.0.0.1", port), from[8];
    struct mmsghdr m[8];
    struct iovec v[8];
    char b[8][16];
    memset(m, 0, sizeof m);
    for (int i = 0; i < 8; i++) {
        sprintf(b[i], "m%d", i);
        v[i] = (struct iovec){b[i], 2};
        m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1, .msg_name = &a, .msg_namelen = sizeof a};
    }
    SHOW(sendmmsg(c, m, 8, 0));
    memset(b, 0, sizeof b);
    for (int i = 0; i < 8; i++) {
        v[i].iov_len = 16;
        m[i].msg_hdr.msg_name = &from[i];
        m[i].msg_hdr.msg_namelen = sizeof from[i];
    }
    SHOW(recvmmsg(s, m, 3, 0, 0));
    SHOW(recvmmsg(s, m + 3, 5, MSG_DONTWAIT, 0));
    for (int i = 0; i < 8; i++) printf("%s %d %d ", b[i], m[i].msg_len, m[i].msg_hdr.msg_namelen);
    printf("\n");
    fflush(stdout);
    if (fork() == 0) {
        for (int i = 0; i < 3; i++) { usleep(5000); sendto(c, "late", 4, 0, (void *)&a, sizeof a); }
        _exit(0);
    }
    SHOW(recvmmsg(s, m, 3, 0, 0));
    wait(0);
    if (fork() == 0) { usleep(5000); sendto(c, "one", 3, 0, (void *)&a, sizeof a); _exit(0); }
    SHOW(recvmmsg(s, m, 3, MSG_WAITFORONE, 0));
    wait(0);
    struct timeval tv = {0, 20000};
    setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    SHOW(recvmmsg(s, m, 3, 0, 0));
    sendto(c, "one", 3, 0, (void *)&a, sizeof a);
    SHOW(recvmmsg(s, m, 3, 0, 0));
    struct timespec ts = {5, 0};
    sendto(c, "one", 3, 0, (void *)&a, sizeof a);
    SHOW(recvmmsg(s, m, 1, 0, &ts));
    printf("left %d\n", ts.tv_sec == 4);
    return 0;
}
