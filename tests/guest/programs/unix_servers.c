#include "unix_common.h"
/* Several processes that accept from one listener; many clients; order of messages. */
int main(void) {
    struct sockaddr_un a;
    socklen_t n = abstract(&a, "cloche-test-servers");
    int l = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(l, (void *)&a, n);
    listen(l, 64);
    pid_t kids[4];
    for (int i = 0; i < 4; i++)
        if ((kids[i] = fork()) == 0)
            for (;;) {
                int s = accept(l, 0, 0);
                char b[4096];
                ssize_t r;
                while ((r = read(s, b, sizeof b)) > 0)
                    for (ssize_t k = 0; k < r; k += write(s, b + k, r - k)) ;
                close(s);
            }
    int bad = 0;
    for (int round = 0; round < 10; round++) {
        int c[20];
        for (int i = 0; i < 20; i++) {
            c[i] = socket(AF_UNIX, SOCK_STREAM, 0);
            if (connect(c[i], (void *)&a, n)) bad++;
            char m[32];
            sprintf(m, "client %d round %d", i, round);
            write(c[i], m, strlen(m));
            shutdown(c[i], SHUT_WR);
        }
        for (int i = 0; i < 20; i++) {
            char want[32], got[64];
            int total = 0, r;
            sprintf(want, "client %d round %d", i, round);
            while ((r = read(c[i], got + total, sizeof got - total)) > 0) total += r;
            if (total != (int)strlen(want) || memcmp(got, want, total)) bad++;
            close(c[i]);
        }
    }
    printf("bad %d\n", bad);
    for (int i = 0; i < 4; i++) { kill(kids[i], SIGTERM); waitpid(kids[i], 0, 0); }
    /* an interrupted accept passes the wake-up on */
    int e = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLEXCLUSIVE}, out[2];
    SHOW(epoll_ctl(e, EPOLL_CTL_ADD, l, &ev));
    SHOW(epoll_wait(e, out, 2, 0));
    int c = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(connect(c, (void *)&a, n));
    SHOW(epoll_wait(e, out, 2, 100));
    int s = accept(l, 0, 0);
    SHOW(epoll_wait(e, out, 2, 0));
    SHOW(dup2(s, 100));
    close(s);
    SHOW(write(c, "via dup", 7));
    char b[16];
    SHOW(read(100, b, 16));
    return 0;
}
