/* Buffers whose end is not mapped, for each kind of socket: the bytes that are sent, received and left. */
#include "inet_common.h"
#include <linux/netlink.h>
#include <sys/mman.h>
#include <sys/uio.h>

static char *edge; /* 64 KiB before it can be used, nothing from it on */
static char plain[70000], big[1 << 17];

static void made(int kind, int s[2]) {
    s[0] = s[1] = -1;
    int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    if (kind < 3) { socketpair(AF_UNIX, types[kind], 0, s); return; }
    if (kind == 3) { tcp_pair(s); return; }
    if (kind == 4 || kind == 6) {
        int type = kind == 4 ? SOCK_STREAM : SOCK_DGRAM;
        struct sockaddr_in6 a = in6("::1", 0);
        socklen_t n = sizeof a;
        int l = socket(AF_INET6, type, 0);
        bind(l, (void *)&a, n);
        getsockname(l, (void *)&a, &n);
        if (kind == 4) listen(l, 1);
        s[0] = socket(AF_INET6, type, 0);
        connect(s[0], (void *)&a, n);
        s[1] = kind == 4 ? accept(l, 0, 0) : l;
        if (kind == 4) close(l);
        return;
    }
    if (kind == 5) {
        s[1] = socket(AF_INET, SOCK_DGRAM, 0);
        struct sockaddr_in a = in4("127.0.0.1", bound(s[1], "127.0.0.1"));
        s[0] = socket(AF_INET, SOCK_DGRAM, 0);
        connect(s[0], (void *)&a, sizeof a);
        return;
    }
    if (kind == 7) {
        s[1] = socket(AF_INET, SOCK_RAW, 200);
        s[0] = socket(AF_INET, SOCK_RAW, 200);
        shutdown(s[0], SHUT_RD);
        struct sockaddr_in a = in4("127.0.0.1", 0);
        connect(s[0], (void *)&a, sizeof a);
        return;
    }
    if (kind == 8) {
        struct sockaddr_nl a = {.nl_family = AF_NETLINK};
        socklen_t n = sizeof a;
        s[1] = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK);
        bind(s[1], (void *)&a, n);
        getsockname(s[1], (void *)&a, &n);
        s[0] = socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK);
        connect(s[0], (void *)&a, n);
        return;
    }
}
static const char *names[] = {"unix stream", "unix dgram", "unix seqpacket", "tcp", "tcp6", "udp", "udp6", "raw", "netlink"};

/* The number of bytes in the queue of a socket; -1: more than one message, or an error. */
static long rest(int fd) {
    long total = 0, n;
    while ((n = recv(fd, big, sizeof big, MSG_DONTWAIT)) > 0) total += n;
    return n < 0 && errno != EAGAIN ? -1 : total;
}

/* One send from `good` bytes that are there and `bad` ones that are not. */
static long sent(int kind, int how, int good, int bad, long *left) {
    int s[2];
    made(kind, s);
    fcntl(s[0], F_SETFL, O_NONBLOCK);
    struct iovec v[3] = {{edge - good, good}, {edge, bad}, {plain, 10}};
    struct iovec one = {edge - good, good + bad};
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1}, many = {.msg_iov = v, .msg_iovlen = 3};
    long n = how == 0 ? write(s[0], edge - good, good + bad) : how == 1 ? send(s[0], edge - good, good + bad, 0)
           : how == 2 ? sendmsg(s[0], &m, 0) : how == 3 ? writev(s[0], v, 2) : sendmsg(s[0], &many, 0);
    int error = errno;
    *left = rest(s[1]);
    close(s[0]); close(s[1]);
    errno = error;
    return n;
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    char *area = mmap(0, 65536 + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    edge = area + 65536;
    munmap(edge, 4096);
    int sizes[][2] = {{100, 100}, {0, 100}, {5000, 5000}, {40000, 10000}};
    for (int kind = 0; kind < 9; kind++) {
        int is_tcp = kind == 3 || kind == 4;
        for (int i = 0; i < 4; i++)
            for (int how = 0; how < 5; how++) {
                int good = sizes[i][0], bad = sizes[i][1];
                long left, n = sent(kind, how, good, bad, &left);
                /* TCP copies into page fragments, of which the first may be an old one's short rest. */
                for (int again = 0; is_tcp && good < 32768 && n > 0 && n == left && again < 3; again++)
                    n = sent(kind, how, good, bad, &left);
                if (is_tcp && n > 0 && n <= 32768 && n == left)
                    printf("%s send %d: %d+%d = some\n", names[kind], how, good, bad);
                else
                    printf("%s send %d: %d+%d = %ld %s, there %ld\n", names[kind], how, good, bad, n, err(n), left);
            }
        for (int i = 0; i < 4; i++) /* the small ones are copied later, by the thread itself */
            for (int how = 0; how < 12; how++) {
                mprotect(edge - 65536, 65536, how < 6 ? PROT_READ | PROT_WRITE : PROT_READ); /* then nothing fits */
                int s[2], good = sizes[i][0], size = good + sizes[i][1];
                made(kind, s);
                if (is_tcp) setsockopt(s[0], IPPROTO_TCP, TCP_NODELAY, &(int){1}, 4);
                send(s[0], plain, size, 0);
                usleep(1000);
                struct iovec v[2] = {{plain, i < 2 ? 10 : 1000}, {edge - good, 70000}};
                struct msghdr m = {.msg_iov = v + 1, .msg_iovlen = 1};
                int call = how % 6;
                long n = call == 0 ? read(s[1], edge - good, 70000) : call == 1 ? recv(s[1], edge - good, 70000, 0)
                       : call == 2 ? recvmsg(s[1], &m, 0) : call == 3 ? readv(s[1], v, 2)
                       : call == 4 ? recv(s[1], edge - good, 70000, MSG_PEEK)
                       : recv(s[1], edge - good, size, MSG_WAITALL);
                int error = errno;
                long left = rest(s[1]);
                errno = error;
                if (is_tcp && n > 0 && n <= 32768 && (call == 4 ? left : n + left) == size)
                    printf("%s recv %d: %d of %d = some\n", names[kind], how, good, size);
                else
                    printf("%s recv %d: %d of %d = %ld %s, left %ld\n", names[kind], how, good, size, n, err(n), left);
                close(s[0]); close(s[1]);
            }
        mprotect(edge - 65536, 65536, PROT_READ | PROT_WRITE);
    }
    return 0;
}
