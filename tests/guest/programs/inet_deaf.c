#include "inet_common.h"
/* Data for an end that is shut down in both directions, or one that was closed with data unread: RST, and which ends
 * see it. */
static void both(int a, int b) { events("a", a), events("b", b); }
int main(void) {
    char d[64];
    int p[2];
    signal(SIGPIPE, SIG_IGN);
    for (int turn = 0; turn < 5; turn++) {
        printf("-- %d\n", turn);
        tcp_pair(p);
        int a = p[0], b = p[1];
        fcntl(a, F_SETFL, O_NONBLOCK), fcntl(b, F_SETFL, O_NONBLOCK);
        if (turn == 1) SHOW(write(b, "before", 6));
        if (turn == 0) { SHOW(shutdown(a, SHUT_RD)); SHOW(write(b, "x", 1)); both(a, b); SHOW(read(a, d, 9)); }
        if (turn == 2) { SHOW(shutdown(a, SHUT_WR)); SHOW(shutdown(a, SHUT_RD)); }
        if (turn == 3) { SHOW(shutdown(a, SHUT_RD)); SHOW(write(b, "x", 1)); SHOW(shutdown(a, SHUT_WR)); }
        if (turn == 4) { SHOW(shutdown(b, SHUT_WR)); SHOW(shutdown(a, SHUT_RDWR)); }
        if (turn < 2) SHOW(shutdown(a, SHUT_RDWR));
        both(a, b);
        SHOW(write(b, "after", 5));
        usleep(1000);
        both(a, b);
        SHOW(shutdown(b, SHUT_WR));
        SHOW(read(a, d, 64));
        SHOW(read(a, d, 64));
        SHOW(write(b, "again", 5));
        SHOW(read(b, d, 64));
        both(a, b);
        close(a), close(b);
    }
    return 0;
}
