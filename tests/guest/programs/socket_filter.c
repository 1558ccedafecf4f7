#include "inet_common.h"
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <net/ethernet.h>
/* SO_ATTACH_FILTER: classic BPF programs decide which messages arrive, and how much of them. */
static char b[300];
static void got(const char *what, int fd) {
    int r = recv(fd, b, sizeof b, MSG_DONTWAIT);
    if (r < 0) printf("%s: %s\n", what, strerror(errno));
    else printf("%s: %d %.*s\n", what, r, r, b);
}
static int attach(int fd, struct sock_filter *f, int n) {
    struct sock_fprog p = {n, f};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p);
}
#define ATTACH(fd, ...) ({ struct sock_filter f_[] = {__VA_ARGS__}; attach(fd, f_, sizeof f_ / sizeof *f_); })
int main(void) {
    int p[2], v = 1;
    socketpair(AF_UNIX, SOCK_DGRAM, 0, p);
    SHOW(setsockopt(p[1], SOL_SOCKET, SO_DETACH_FILTER, &v, 4));
    puts("unix: only messages that begin with a");
    SHOW(ATTACH(p[1], BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'a', 0, 1), BPF_STMT(BPF_RET | BPF_K, 100),
                BPF_STMT(BPF_RET | BPF_K, 0)));
    SHOW(send(p[0], "bcd", 3, 0));
    SHOW(send(p[0], "abc", 3, 0));
    got("first", p[1]);
    got("second", p[1]);
    SHOW(ATTACH(p[1], BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_STMT(BPF_ALU | BPF_SUB | BPF_K, 2), BPF_STMT(BPF_RET | BPF_A, 0)));
    SHOW(send(p[0], "abcdef", 6, 0));
    got("two less", p[1]);
    SHOW(ATTACH(p[1], BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), BPF_STMT(BPF_RET | BPF_K, 9)));
    SHOW(send(p[0], "abc", 3, 0));
    got("beyond the end", p[1]);
    puts("arithmetic:");
    SHOW(ATTACH(p[1], BPF_STMT(BPF_LD | BPF_IMM, 7), BPF_STMT(BPF_ST, 3), BPF_STMT(BPF_LDX | BPF_MEM, 3), BPF_STMT(BPF_LD | BPF_IMM, 17),
                BPF_STMT(BPF_ALU | BPF_MOD | BPF_X, 0), BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 2), BPF_STMT(BPF_ALU | BPF_XOR | BPF_K, 8),
                BPF_STMT(BPF_MISC | BPF_TAX, 0), BPF_STMT(BPF_ALU | BPF_NEG, 0), BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
                BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0), BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 1), BPF_STMT(BPF_RET | BPF_A, 0)));
    SHOW(send(p[0], "0123456789", 10, 0));
    got("computed", p[1]);
    SHOW(ATTACH(p[1], BPF_STMT(BPF_LD | BPF_IMM, 7), BPF_STMT(BPF_LDX | BPF_IMM, 0), BPF_STMT(BPF_ALU | BPF_DIV | BPF_X, 0), BPF_STMT(BPF_RET | BPF_K, 5)));
    SHOW(send(p[0], "0123456789", 10, 0));
    got("divided by 0", p[1]);
    puts("what is no program:");
    SHOW(ATTACH(p[1], BPF_STMT(BPF_LD | BPF_IMM, 7)));
    SHOW(ATTACH(p[1], BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1, 5, 0), BPF_STMT(BPF_RET | BPF_K, 5)));
    SHOW(ATTACH(p[1], BPF_STMT(BPF_JMP | BPF_JA, 1), BPF_STMT(BPF_RET | BPF_K, 5)));
    SHOW(ATTACH(p[1], BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), BPF_STMT(BPF_RET | BPF_K, 5)));
    SHOW(ATTACH(p[1], BPF_STMT(BPF_ST, 16), BPF_STMT(BPF_RET | BPF_K, 5)));
    SHOW(ATTACH(p[1], BPF_STMT(0xff, 0), BPF_STMT(BPF_RET | BPF_K, 5)));
    SHOW(ATTACH(p[1], BPF_STMT(BPF_RET | BPF_X, 0)));
    SHOW(attach(p[1], 0, 1));
    SHOW(attach(p[1], (void *)8, 1));
    SHOW(attach(p[1], (void *)b, 0));
    SHOW(setsockopt(p[1], SOL_SOCKET, SO_ATTACH_FILTER, b, 4));
    puts("detached and locked:");
    SHOW(setsockopt(p[1], SOL_SOCKET, SO_DETACH_FILTER, &v, 4));
    SHOW(send(p[0], "free", 4, 0));
    got("free", p[1]);
    SHOW(ATTACH(p[1], BPF_STMT(BPF_RET | BPF_K, 2)));
    SHOW(setsockopt(p[1], SOL_SOCKET, SO_LOCK_FILTER, &v, 4));
    SHOW(setsockopt(p[1], SOL_SOCKET, SO_DETACH_FILTER, &v, 4));
    SHOW(ATTACH(p[1], BPF_STMT(BPF_RET | BPF_K, 9)));
    v = 0;
    SHOW(setsockopt(p[1], SOL_SOCKET, SO_LOCK_FILTER, &v, 4));
    SHOW(send(p[0], "locked", 6, 0));
    got("locked", p[1]);
    puts("udp: by source port, which the header has");
    int a = socket(AF_INET, SOCK_DGRAM, 0), u = socket(AF_INET, SOCK_DGRAM, 0), w = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = in4("127.0.0.1", bound(a, "127.0.0.1"));
    int port = bound(u, "127.0.0.1");
    SHOW(ATTACH(a, BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, port, 0, 1), BPF_STMT(BPF_RET | BPF_K, 11), BPF_STMT(BPF_RET | BPF_K, 0)));
    SHOW(sendto(w, "wrong", 5, 0, (void *)&to, sizeof to));
    SHOW(sendto(u, "right", 5, 0, (void *)&to, sizeof to));
    usleep(1000);
    got("udp", a);
    got("udp", a);
    int raw = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
    if (raw >= 0) {
        puts("packets: UDP to our port that come in");
        SHOW(ATTACH(raw, BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 8), BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23),
                    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 17, 0, 6), BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 14), BPF_STMT(BPF_LD | BPF_H | BPF_IND, 16),
                    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohs(to.sin_port), 0, 3), BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_PKTTYPE),
                    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_HOST, 0, 1), BPF_STMT(BPF_RET | BPF_K, 44), BPF_STMT(BPF_RET | BPF_K, 0)));
        while (recv(raw, b, sizeof b, MSG_DONTWAIT) >= 0) ;
        SHOW(sendto(u, "packet", 6, 0, (void *)&to, sizeof to));
        usleep(1000);
        int r = recv(raw, b, sizeof b, MSG_DONTWAIT);
        printf("%d %.2s\n", r, b + 42);
        r = recv(raw, b, sizeof b, MSG_DONTWAIT);
        printf("%d\n", r);
    }
    return 0;
}
