#include "inet_common.h"
#include <stdint.h>
/* TCP_INFO: the fields with definite values for a connection over lo. */
/* The fields after those of the C library's struct tcp_info, by offset. */
static uint64_t wide(void *i, int at) { uint64_t v; memcpy(&v, (char *)i + at, 8); return v; }
static uint32_t word(void *i, int at) { uint32_t v; memcpy(&v, (char *)i + at, 4); return v; }
static void info(const char *what, int fd) {
    union { struct tcp_info i; char room[400]; } u;
    memset(&u, 0xEE, sizeof u);
    socklen_t n = sizeof u;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &u, &n) < 0) { printf("%s: %s\n", what, strerror(errno)); return; }
    printf("%s: len %s state %d ca %d retr %d probes %d backoff %d options %#x wscale %s mss %s rcv_mss %s unacked %d sacked %d lost %d "
           "pmtu %d retrans %d rto %d notsent %d acked %llu received %llu sent %llu\n",
           what, n >= 232 ? "long" : "short", u.i.tcpi_state, u.i.tcpi_ca_state, u.i.tcpi_retransmits, u.i.tcpi_probes, u.i.tcpi_backoff, u.i.tcpi_options,
           u.i.tcpi_snd_wscale ? "yes" : "no", u.i.tcpi_snd_mss > 30000 ? "big" : "small", u.i.tcpi_rcv_mss > 0 ? "some" : "0", u.i.tcpi_unacked, u.i.tcpi_sacked,
           u.i.tcpi_lost, u.i.tcpi_pmtu, u.i.tcpi_total_retrans, u.i.tcpi_rto > 100000, word(&u, 144),
           (unsigned long long)wide(&u, 120), (unsigned long long)wide(&u, 128), (unsigned long long)wide(&u, 200));
}
int main(void) {
    int port, l, c, s;
    char b[200];
    c = socket(AF_INET, SOCK_STREAM, 0);
    info("new", c);
    l = listening(&port);
    info("listening", l);
    struct sockaddr_in a = in4("127.0.0.1", port);
    SHOW(connect(c, (void *)&a, sizeof a));
    info("listening with one", l);
    s = accept(l, 0, 0);
    info("accepted", s);
    info("connected", c);
    SHOW(send(c, b, 100, 0));
    usleep(60000);
    info("sender", c);
    info("receiver", s);
    SHOW(recv(s, b, 200, 0));
    info("receiver", s);
    SHOW(shutdown(c, SHUT_WR));
    usleep(100000); /* the acknowledgement may be delayed */
    info("fin sent", c);
    info("fin received", s);
    close(s);
    usleep(1000);
    info("both", c);
    socklen_t n = 8;
    char small[8];
    SHOW(getsockopt(c, IPPROTO_TCP, TCP_INFO, small, &n));
    printf("%d\n", (int)n);
    return 0;
}
