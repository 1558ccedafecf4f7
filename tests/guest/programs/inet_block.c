#include "inet_common.h"
/* Blocking: large transfers, accept and connect that wait, timeouts, sendfile and splice, ET epoll. */
static int p[2];
static void *reader(void *arg) {
    static char b[100000];
    long total = 0, n, bad = 0;
    while ((n = read(p[1], b, sizeof b)) > 0) { for (long i = 0; i < n; i++) if ((unsigned char)b[i] != (unsigned char)((total + i) * 7)) bad++; total += n; }
    printf("read %ld bad %ld\n", total, bad);
    return 0;
}
static int lport;
static void *late_connect(void *arg) {
    usleep(20000);
    int c = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = in4("127.0.0.1", lport);
    connect(c, (void *)&a, sizeof a);
    usleep(20000);
    write(c, "late", 4);
    close(c);
    return 0;
}
int main(void) {
    pthread_t t;
    tcp_pair(p);
    pthread_create(&t, 0, reader, 0);
    long size = 20000000;
    unsigned char *big = malloc(size);
    for (long i = 0; i < size; i++) big[i] = i * 7;
    SHOW(write(p[0], big, size));
    shutdown(p[0], SHUT_WR);
    pthread_join(t, 0);
    close(p[0]); close(p[1]);
    int l = listening(&lport);
    pthread_create(&t, 0, late_connect, 0);
    char b[64];
    int s = accept(l, 0, 0);
    printf("accepted %d\n", s >= 0);
    SHOW(read(s, b, 64));
    SHOW(read(s, b, 64));
    pthread_join(t, 0);
    struct timeval tv = {0, 30000};
    setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    SHOW(accept(l, 0, 0));
    tcp_pair(p);
    setsockopt(p[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    SHOW(read(p[0], b, 1));
    setsockopt(p[0], SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    long r = write(p[0], big, size);
    printf("partial %d\n", r > 0 && r < size);
    long total = 0, n;
    for (int full = 0; full < 3; full++)  // the peer's window may grow for a while
        while ((n = write(p[0], big, size)) > 0) { r += n; full = 0; }
    SHOW(write(p[0], big, 1));
    events("full", p[0]);
    fcntl(p[1], F_SETFL, O_NONBLOCK);
    while ((n = read(p[1], big, 100000)) > 0) total += n;
    printf("drained %d\n", total == r);
    events("empty", p[0]);
    /* WAITALL across writes */
    fcntl(p[1], F_SETFL, 0);
    if (fork() == 0) { write(p[0], "ab", 2); usleep(10000); write(p[0], "cd", 2); _exit(0); }
    SHOW(recv(p[1], b, 4, MSG_WAITALL));
    wait(0);
    /* sendfile, splice */
    int f = open("file", O_CREAT | O_RDWR, 0600);
    write(f, "file contents", 13);
    lseek(f, 0, SEEK_SET);
    SHOW(sendfile(p[0], f, 0, 13));
    SHOW(read(p[1], b, 64));
    int q[2];
    pipe(q);
    write(p[0], "spliced", 7);
    SHOW(splice(p[1], 0, q[1], 0, 64, 0));
    SHOW(splice(q[0], 0, p[0], 0, 64, 0));
    SHOW(read(p[1], b, 64));
    int e = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP}, out[4];
    epoll_ctl(e, EPOLL_CTL_ADD, p[1], &ev);
    SHOW(epoll_wait(e, out, 4, 0)); printf("%x\n", out[0].events);
    SHOW(epoll_wait(e, out, 4, 0));
    write(p[0], "x", 1);
    SHOW(epoll_wait(e, out, 4, 100)); printf("%x\n", out[0].events);
    shutdown(p[0], SHUT_WR);
    SHOW(epoll_wait(e, out, 4, 100)); printf("%x\n", out[0].events);
    close(p[0]);
    /* a nonblocking stream of many small pieces */
    tcp_pair(p);
    for (int i = 0; i < 3000; i++) if (write(p[0], "0123456789", 10) != 10) printf("short\n");
    total = 0;
    while (total < 30000) total += read(p[1], big, 777);
    printf("total %ld\n", total);
    return 0;
}
