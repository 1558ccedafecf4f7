/* Random socket calls with plausible and senseless arguments.  Never run it outside of a sandbox: it also writes
 * random requests to netlink.  Usage: sockets CALLS SEED; prints "done" at the end. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 40

static unsigned long state = 88172645463325252UL;
static char buf[1 << 16];
static int fds[FDS];

static unsigned long rnd(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static unsigned long any(void) {
    switch (rnd() % 8) {
    case 0: return 0;
    case 1: return (unsigned long)buf + rnd() % 60000;
    case 2: return fds[rnd() % FDS];
    case 3: return rnd() % 64;
    case 4: return -1UL;
    case 5: return rnd();
    case 6: return (unsigned long)buf;
    default: return rnd() % 300;
    }
}

static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_INET, AF_INET6};
static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_RAW};
static const int levels[] = {0, SOL_SOCKET, 6, 17, 41, 270, 58, 136, 255, 263};

static void make(int k) {
    int s[2];
    if (rnd() % 3) {
        fds[k] = socket(families[rnd() % 7], types[rnd() % 4] | SOCK_NONBLOCK, rnd() % 4 ? 0 : rnd() % 20);
    } else if (socketpair(AF_UNIX, types[rnd() % 3] | SOCK_NONBLOCK, 0, s) == 0) {
        fds[k] = s[0];
        int q = rnd() % FDS;
        if (fds[q] < 0)
            fds[q] = s[1];
        else
            close(s[1]);
    }
}

static void address(void) {
    struct sockaddr_in *four = (void *)buf;
    memset(buf, 0, 32);
    four->sin_family = families[rnd() % 7];
    four->sin_port = htons(40000 + rnd() % 5);
    if (rnd() % 3)
        four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        ((struct sockaddr_in6 *)buf)->sin6_addr = in6addr_loopback;
}

static void header(void) {
    struct msghdr *m = (void *)buf;
    struct iovec *v = (void *)(buf + 2000);
    struct cmsghdr *h = (void *)(buf + 3000);
    *m = (struct msghdr){rnd() % 2 ? buf + 1000 : 0, rnd() % 120, v, rnd() % 3, h, rnd() % 80, 0};
    v[0] = (struct iovec){buf + 4000, rnd() % 5000};
    v[1] = (struct iovec){buf + 5000, rnd() % 100};
    h->cmsg_len = rnd() % 3 ? 16 + 4 * (rnd() % 4) : rnd() % 90;
    h->cmsg_level = rnd() % 3 ? SOL_SOCKET : levels[rnd() % 10];
    h->cmsg_type = rnd() % 5;
    ((int *)(h + 1))[0] = fds[rnd() % FDS];
    ((int *)(h + 1))[1] = fds[rnd() % FDS];
}

static void call(int k) {
    static const int numbers[] = {
        SYS_connect,     SYS_accept4,    SYS_sendto,     SYS_recvfrom,   SYS_sendmsg,  SYS_recvmsg,  SYS_shutdown,
        SYS_bind,        SYS_listen,     SYS_getsockname, SYS_getpeername, SYS_setsockopt, SYS_getsockopt,
        SYS_sendmmsg,    SYS_recvmmsg,   SYS_ioctl,      SYS_read,       SYS_write,    SYS_sendmsg,  SYS_recvmsg};
    int number = numbers[rnd() % 20];
    unsigned long a = any(), b = any(), c = any(), d = any(), e = any();
    unsigned long here = (unsigned long)buf;
    if (rnd() % 2)
        address();
    else
        for (int i = 0; i < 64; i++)
            buf[rnd() % 512] = rnd();
    switch (number) {
    case SYS_connect:
    case SYS_bind:
        a = here, b = rnd() % 3 ? 16 + 12 * (rnd() % 2) : rnd() % 140;
        break;
    case SYS_sendto:
        a = here + 4000, b = rnd() % 3 ? rnd() % 60000 : rnd() % 100, d = rnd() % 2 ? here : 0, e = 16 + 12 * (rnd() % 2);
        break;
    case SYS_recvfrom:
        a = here + 4000, b = rnd() % 60000, c = rnd() % 4 ? 0 : rnd(), d = rnd() % 2 ? 0 : d;
        break;
    case SYS_sendmsg:
    case SYS_recvmsg:
    case SYS_sendmmsg:
    case SYS_recvmmsg:
        header();
        a = here, b = rnd() % 3;
        if (number == SYS_sendmsg || number == SYS_recvmsg)
            b = rnd() % 3 ? 0 : rnd();
        d = 0;
        break;
    case SYS_setsockopt:
    case SYS_getsockopt:
        a = levels[rnd() % 10], b = rnd() % 90, c = here + rnd() % 100, d = rnd() % 40;
        if (number == SYS_getsockopt)
            d = here + 200, *(int *)(buf + 200) = rnd() % 200;
        break;
    case SYS_ioctl:
        a = rnd() % 2 ? 0x8900 + rnd() % 0x100 : 0x5411 + rnd() % 16, b = here;
        break;
    case SYS_read:
    case SYS_write:
        a = here + 100, b = rnd() % 30000;
        break;
    }
    long result = syscall(number, fds[k], a, b, c, d, e);
    if (number == SYS_accept4 && result >= 0) {
        fcntl(result, F_SETFL, O_NONBLOCK);
        int q = rnd() % FDS;
        if (fds[q] >= 0)
            close(fds[q]);
        fds[q] = result;
    }
}

/* A program of random instructions, sometimes a valid one. */
static void attach(int k) {
    static const int codes[] = {0x00, 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x60, 0x80, 0x01, 0x61, 0x81, 0xb1, 0x02, 0x03, 0x04, 0x0c, 0x14, 0x24, 0x34,
                                0x3c, 0x44, 0x54, 0x64, 0x6c, 0x74, 0x84, 0x94, 0xa4, 0x05, 0x15, 0x1d, 0x25, 0x35, 0x45, 0x06, 0x16, 0x07, 0x87};
    struct sock_filter f[16];
    int n = 1 + rnd() % 16;
    for (int i = 0; i < n; i++) {
        static const unsigned values[] = {0, 1, 5, 20, 40, 0xffffffff, 0xfffff000, 0xfff00000, 0xffe00000};
        f[i] = (struct sock_filter){codes[rnd() % 39], rnd() % 3, rnd() % 3, values[rnd() % 9] + rnd() % 3};
    }
    if (rnd() % 8)
        f[n - 1] = (struct sock_filter){rnd() % 2 ? 0x06 : 0x16, 0, 0, rnd() % 2 ? 0xffffffff : rnd() % 100};
    struct sock_fprog p = {n, f};
    setsockopt(fds[k], SOL_SOCKET, rnd() % 6 ? SO_ATTACH_FILTER : SO_DETACH_FILTER, &p, sizeof p);
}

static void move(int k) {
    static int ends[2] = {-1, -1};
    if (ends[0] < 0)
        pipe2(ends, O_NONBLOCK);
    if (rnd() % 2)
        splice(fds[k], 0, ends[1], 0, rnd() % 70000, rnd() % 16 | SPLICE_F_NONBLOCK);
    else
        splice(ends[0], 0, fds[k], 0, rnd() % 70000, rnd() % 16 | SPLICE_F_NONBLOCK);
    if (rnd() % 4 == 0)
        write(ends[1], buf, rnd() % 5000);
}

static void close_received(void) {
    for (int fd = 3; fd < 900; fd++) {
        int is_ours = 0;
        char kind[8] = "";
        char path[32];
        sprintf(path, "/proc/self/fd/%d", fd);
        if (readlink(path, kind, 5) > 0 && !strcmp(kind, "pipe:"))
            continue;
        for (int i = 0; i < FDS; i++)
            is_ours |= fds[i] == fd;
        if (!is_ours)
            close(fd);
    }
}

int main(int argc, char **argv) {
    long count = argc > 1 ? atol(argv[1]) : 10000;
    for (int i = argc > 2 ? atoi(argv[2]) : 0; i > 0; i--)
        rnd();
    alarm(100);
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < FDS; i++)
        fds[i] = -1;
    for (long i = 0; i < count; i++) {
        int k = rnd() % FDS;
        if (fds[k] < 0) {
            make(k);
        } else if (rnd() % 30 == 0) {
            close(fds[k]);
            fds[k] = -1;
        } else if (rnd() % 20 == 0) {
            attach(k);
        } else if (rnd() % 20 == 0) {
            move(k);
        } else {
            call(k);
        }
        if (i % 2000 == 0)
            close_received();
    }
    printf("done\n");
    return 0;
}
