#include "inet_common.h"
/* Urgent data: MSG_OOB, SIOCATMARK, SO_OOBINLINE, SIGURG, POLLPRI. */
static volatile int urgs;
static void on_urg(int s) { urgs++; }
static int mark(int s) { int m = -1; ioctl(s, SIOCATMARK, &m); return m; }
int main(void) {
    int p[2];
    char b[32];
    tcp_pair(p);
    signal(SIGURG, on_urg);
    fcntl(p[1], F_SETOWN, getpid());
    SHOW(recv(p[1], b, 1, MSG_OOB));
    SHOW(send(p[0], "abcX", 4, MSG_OOB));
    usleep(1000);
    printf("signals %d\n", urgs);
    SHOW(send(p[0], "def", 3, 0));
    usleep(1000);
    events("urgent", p[1]);
    printf("mark %d\n", mark(p[1]));
    SHOW(recv(p[1], b, 2, 0));
    SHOW(recv(p[1], b, 20, 0));
    printf("mark %d\n", mark(p[1]));
    SHOW(recv(p[1], b, 1, MSG_OOB)); printf("%c\n", b[0]);
    SHOW(recv(p[1], b, 1, MSG_OOB));
    events("after oob", p[1]);
    SHOW(recv(p[1], b, 20, 0)); printf("%.3s\n", b);
    printf("mark %d\n", mark(p[1]));
    int on = 1;
    setsockopt(p[1], SOL_SOCKET, SO_OOBINLINE, &on, 4);
    SHOW(send(p[0], "12Y", 3, MSG_OOB));
    SHOW(send(p[0], "34", 2, 0));
    usleep(1000);
    SHOW(recv(p[1], b, 1, MSG_OOB));
    SHOW(recv(p[1], b, 20, 0));
    printf("mark %d\n", mark(p[1]));
    SHOW(recv(p[1], b, 20, 0)); printf("%.3s\n", b);
    printf("signals %d\n", urgs);
    return 0;
}
