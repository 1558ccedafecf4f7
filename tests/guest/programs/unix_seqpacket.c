#include "unix_common.h"
/* Seqpacket over a name; ET epoll; dup and fork sharing. */
int main(void) {
    struct sockaddr_un a;
    socklen_t n = abstract(&a, "cloche-test-seq");
    char b[32];
    int l = socket(AF_UNIX, SOCK_SEQPACKET, 0), c = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    SHOW(send(c, "x", 1, MSG_NOSIGNAL));
    SHOW(recv(c, b, 1, MSG_DONTWAIT));
    events("unconnected", c);
    SHOW(bind(l, (void *)&a, n));
    SHOW(listen(l, 2));
    SHOW(connect(c, (void *)&a, n));
    SHOW(connect(c, (void *)&a, n));
    int s = accept(l, 0, 0);
    SHOW(send(c, "one", 3, 0));
    SHOW(send(c, "two!", 4, MSG_EOR));
    struct iovec iov = {b, 2};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    SHOW(recvmsg(s, &m, 0));
    printf("flags %x\n", m.msg_flags);
    iov.iov_len = 20;
    SHOW(recvmsg(s, &m, 0));
    printf("flags %x\n", m.msg_flags);
    SHOW(sendto(c, "x", 1, 0, (void *)&a, n));
    SHOW(recv(s, b, 10, 0));
    int e = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET | EPOLLRDHUP}, out[4];
    epoll_ctl(e, EPOLL_CTL_ADD, s, &ev);
    SHOW(epoll_wait(e, out, 4, 0));
    send(c, "1", 1, 0);
    SHOW(epoll_wait(e, out, 4, 0));
    SHOW(epoll_wait(e, out, 4, 0));
    send(c, "2", 1, 0);
    SHOW(epoll_wait(e, out, 4, 0));
    recv(s, b, 10, 0);
    SHOW(epoll_wait(e, out, 4, 0));
    int d = dup(c);
    close(c);
    SHOW(epoll_wait(e, out, 4, 0));
    pid_t pid = fork();
    if (pid == 0) { send(d, "child", 5, 0); _exit(0); }
    waitpid(pid, 0, 0);
    SHOW(epoll_wait(e, out, 4, 0));
    close(d);
    SHOW(epoll_wait(e, out, 4, 0));
    printf("%x\n", out[0].events);
    while (1) { int r = recv(s, b, 10, 0); printf("%d\n", r); if (r <= 0) break; }
    SHOW(send(s, "x", 1, MSG_NOSIGNAL));
    return 0;
}
