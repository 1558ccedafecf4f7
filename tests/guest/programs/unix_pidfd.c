#include "unix_common.h"
#include <sys/syscall.h>
/* SO_PEERPIDFD, SO_PASSPIDFD, timestamps. */
int main(void) {
    int s[2], on = 1, fd = -1;
    socklen_t n = sizeof fd;
    socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
    TRY(getsockopt(s[0], SOL_SOCKET, 77, &fd, &n));
    struct sockaddr_un a;
    socklen_t an = abstract(&a, "cloche-test-pidfd");
    int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(l, (void *)&a, an);
    listen(l, 1);
    connect(c, (void *)&a, an);
    TRY(getsockopt(c, SOL_SOCKET, 77, &fd, &n));
    printf("signal %d cloexec %d\n", (int)syscall(SYS_pidfd_send_signal, fd, 0, 0, 0), fcntl(fd, F_GETFD));
    TRY(setsockopt(s[1], SOL_SOCKET, 76, &on, sizeof on));
    TRY(setsockopt(s[1], SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on));
    write(s[0], "x", 1);
    char ctl[256], b[8];
    struct iovec iov = {b, 8};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl};
    SHOW(recvmsg(s[1], &m, 0));
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        printf("type %d len %d\n", h->cmsg_type, (int)h->cmsg_len);
        if (h->cmsg_type == 4) { memcpy(&fd, CMSG_DATA(h), 4); printf("signal %d\n", (int)syscall(SYS_pidfd_send_signal, fd, 0, 0, 0)); }
        if (h->cmsg_type == SO_TIMESTAMP) { struct timeval tv; memcpy(&tv, CMSG_DATA(h), sizeof tv); printf("recent %d\n", labs(time(0) - tv.tv_sec) < 5); }
    }
    pid_t pid = fork();
    if (pid == 0) { write(s[0], "y", 1); _exit(0); }
    waitpid(pid, 0, 0);
    m.msg_controllen = sizeof ctl;
    SHOW(recvmsg(s[1], &m, 0));
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h))
        if (h->cmsg_type == 4) printf("len %d\n", (int)h->cmsg_len);
    return 0;
}
