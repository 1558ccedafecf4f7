#include "unix_common.h"
/* SO_PEERCRED, SO_PASSCRED, SCM_CREDENTIALS. */
static void show(const char *what, int s, int flags) {
    char c[256], b[64];
    struct iovec iov = {b, sizeof b};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    int r = recvmsg(s, &m, flags | MSG_DONTWAIT);
    printf("%s: %d %s flags %x", what, r, err(r), m.msg_flags);
    if (r >= 0)
        for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
            struct ucred *u = (void *)CMSG_DATA(h);
            printf(" type %d", h->cmsg_type);
            if (h->cmsg_type == SCM_CREDENTIALS)
                printf(" pid %s uid %d gid %d", u->pid == getpid() ? "self" : u->pid == 0 ? "0" : "other", u->uid, u->gid);
        }
    printf("\n");
}
static int send_cred(int s, int pid, int uid, int gid) {
    char c[CMSG_SPACE(sizeof(struct ucred))] = {0};
    struct iovec iov = {"cred", 4};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = c, .msg_controllen = sizeof c};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET; h->cmsg_type = SCM_CREDENTIALS; h->cmsg_len = CMSG_LEN(sizeof(struct ucred));
    struct ucred u = {pid, uid, gid};
    memcpy(CMSG_DATA(h), &u, sizeof u);
    return sendmsg(s, &m, 0);
}
static void peer(const char *what, int s) {
    struct ucred u;
    socklen_t n = sizeof u;
    int r = getsockopt(s, SOL_SOCKET, SO_PEERCRED, &u, &n);
    printf("%s: %d pid %s uid %d gid %d len %d\n", what, r, u.pid == getpid() ? "self" : u.pid == 0 ? "0" : "other", u.uid, u.gid, n);
}
int main(void) {
    int on = 1, types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    for (int t = 0; t < 3; t++) {
        int s[2];
        socketpair(AF_UNIX, types[t], 0, s);
        peer("pair", s[0]);
        send(s[0], "before", 6, 0);
        SHOW(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
        show("sent before", s[1], 0);
        send(s[0], "after", 5, 0);
        show("peeked", s[1], MSG_PEEK);
        show("sent after", s[1], 0);
        SHOW(send_cred(s[0], getpid(), getuid(), getgid()));
        show("explicit", s[1], 0);
        SHOW(send_cred(s[0], getpid(), -1, getgid()));
        if (getuid() == 0) {
            SHOW(send_cred(s[0], getpid(), 1234, 5678));
            show("other ids", s[1], 0);
            send(s[0], "a", 1, 0);
            send_cred(s[0], getpid(), 5, 6);
            show("first", s[1], 0);
            show("second", s[1], 0);
        }
        int off = 0;
        setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &off, sizeof off);
        send_cred(s[0], getpid(), getuid(), getgid());
        show("not passed", s[1], 0);
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) { send(s[0], "child", 5, 0); _exit(0); }
        waitpid(pid, 0, 0);
        setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
        show("from a child before", s[1], 0);
        close(s[0]); close(s[1]);
    }
    struct sockaddr_un a;
    socklen_t n = abstract(&a, "cloche-test-cred");
    int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
    peer("unconnected", c);
    bind(l, (void *)&a, n);
    listen(l, 5);
    peer("listener", l);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (getuid() == 0) { setgid(55); setuid(44); }
        connect(c, (void *)&a, n);
        struct ucred u;
        socklen_t un = sizeof u;
        getsockopt(c, SOL_SOCKET, SO_PEERCRED, &u, &un);
        printf("child sees uid %d\n", u.uid);
        fflush(stdout);
        write(c, "x", 1);
        pause();
    }
    int s = accept(l, 0, 0);
    char byte;
    read(s, &byte, 1);
    peer("accepted", s);
    gid_t groups[64];
    n = sizeof groups;
    TRY(getsockopt(s, SOL_SOCKET, SO_PEERGROUPS, groups, &n));
    kill(pid, 9);
    waitpid(pid, 0, 0);
    peer("accepted, child gone", s);
    return 0;
}
