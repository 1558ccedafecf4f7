#include "unix_common.h"
/* Names: paths, abstract names, autobind, their errors; connect, accept, backlog. */
static void name_of(int fd, int peer) {
    struct sockaddr_un a;
    socklen_t n = sizeof a;
    int r = peer ? getpeername(fd, (void *)&a, &n) : getsockname(fd, (void *)&a, &n);
    if (r < 0) { printf("name: %s\n", err(r)); return; }
    printf("len %d family %d", (int)n, a.sun_family);
    for (int i = 0; i < (int)n - 2; i++) printf(a.sun_path[i] > 32 ? " %c" : " %d", a.sun_path[i]);
    printf("\n");
}
int main(void) {
    struct sockaddr_un a;
    socklen_t n;
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    name_of(s, 0);
    name_of(s, 1);
    SHOW(listen(s, 3));
    n = named(&a, "sock");
    SHOW(bind(s, (void *)&a, 1));
    SHOW(bind(s, (void *)&a, 200));
    SHOW(bind(s, (void *)8, n));
    a.sun_family = AF_INET;
    SHOW(bind(s, (void *)&a, n));
    n = named(&a, "nowhere/sock");
    SHOW(bind(s, (void *)&a, n));
    umask(027);
    n = named(&a, "sock");
    SHOW(bind(s, (void *)&a, n));
    struct stat st;
    stat("sock", &st);
    printf("mode %o\n", st.st_mode);
    SHOW(open("sock", O_RDWR));
    SHOW(bind(s, (void *)&a, n));
    name_of(s, 0);
    int t = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(bind(t, (void *)&a, n));
    SHOW(connect(t, (void *)&a, n));
    SHOW(listen(s, 1));
    events("listener", s);
    SHOW(connect(s, (void *)&a, n));
    SHOW(connect(t, (void *)&a, n));
    SHOW(connect(t, (void *)&a, n));
    events("listener with one", s);
    events("connected", t);
    name_of(t, 1);
    name_of(t, 0);
    SHOW(write(t, "early", 5));
    int u = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SHOW(connect(u, (void *)&a, n));
    int v = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    SHOW(connect(v, (void *)&a, n));
    events("refused by backlog", v);
    struct sockaddr_un who;
    socklen_t wn = sizeof who;
    int c = accept4(s, (void *)&who, &wn, SOCK_CLOEXEC);
    printf("accepted len %d fd flags %d\n", (int)wn, fcntl(c, F_GETFD));
    name_of(c, 0);
    name_of(c, 1);
    char b[16];
    SHOW(read(c, b, sizeof b));
    SHOW(connect(v, (void *)&a, n));
    fcntl(s, F_SETFL, O_NONBLOCK);
    int d1 = accept(s, 0, 0), d2 = accept(s, 0, 0);
    printf("%d %d\n", d1 > 0, d2 > 0);
    SHOW(accept(s, 0, 0));
    SHOW(accept(t, 0, 0));
    SHOW(accept4(s, 0, 0, 1));
    /* path gone, and a regular file */
    unlink("sock");
    int w = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(connect(w, (void *)&a, n));
    close(open("sock", O_CREAT | O_RDWR, 0644));
    SHOW(connect(w, (void *)&a, n));
    unlink("sock");
    /* wrong type */
    int x = socket(AF_UNIX, SOCK_DGRAM, 0);
    SHOW(bind(x, (void *)&a, n));
    SHOW(connect(w, (void *)&a, n));
    close(x);
    SHOW(connect(w, (void *)&a, n));
    /* abstract */
    int y = socket(AF_UNIX, SOCK_STREAM, 0), z = socket(AF_UNIX, SOCK_STREAM, 0);
    n = abstract(&a, "cloche-test-names");
    SHOW(bind(y, (void *)&a, n));
    name_of(y, 0);
    SHOW(bind(z, (void *)&a, n));
    SHOW(connect(z, (void *)&a, n));
    SHOW(listen(y, 0));
    SHOW(connect(z, (void *)&a, n - 1));
    SHOW(connect(z, (void *)&a, n));
    close(y);
    events("embryo closed", z);
    SHOW(read(z, b, 1));
    SHOW(read(z, b, 1));
    int q = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(bind(q, (void *)&a, n));
    close(q);
    /* autobind */
    q = socket(AF_UNIX, SOCK_DGRAM, 0);
    a.sun_family = AF_UNIX;
    SHOW(bind(q, (void *)&a, 2));
    n = sizeof a;
    getsockname(q, (void *)&a, &n);
    printf("autobind len %d first %d\n", (int)n, a.sun_path[0]);
    SHOW(bind(q, (void *)&a, 2));
    /* 108 characters without a NUL */
    memset(&a, 'x', sizeof a);
    a.sun_family = AF_UNIX;
    q = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(bind(q, (void *)&a, sizeof a));
    n = sizeof a;
    SHOW(getsockname(q, (void *)&a, &n));
    printf("%d\n", (int)n);
    n = 4;
    SHOW(getsockname(q, (void *)&a, &n));
    printf("%d\n", (int)n);
    n = -1;
    SHOW(getsockname(q, (void *)&a, &n));
    return 0;
}
