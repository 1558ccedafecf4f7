#include "unix_common.h"
/* socketpair: data, half-closes and the events of each step. */
static void one(int type) {
    int s[2];
    char b[64];
    printf("type %d\n", type);
    SHOW(socketpair(AF_UNIX, type, 0, s) );
    events("fresh", s[0]);
    SHOW(write(s[0], "hello", 5));
    events("with data", s[1]);
    SHOW(read(s[1], b, 2));
    SHOW(recv(s[1], b, sizeof b, MSG_DONTWAIT));
    SHOW(recv(s[1], b, sizeof b, MSG_DONTWAIT));
    SHOW(send(s[0], "x", 0, 0));
    SHOW(recv(s[1], b, sizeof b, MSG_DONTWAIT));
    SHOW(shutdown(s[0], SHUT_WR));
    events("0 after SHUT_WR", s[0]);
    events("1 after peer SHUT_WR", s[1]);
    SHOW(send(s[0], "x", 1, MSG_NOSIGNAL));
    SHOW(recv(s[1], b, sizeof b, MSG_DONTWAIT));
    SHOW(send(s[1], "back", 4, MSG_NOSIGNAL));
    SHOW(shutdown(s[1], SHUT_RDWR));
    events("0 after all", s[0]);
    events("1 after all", s[1]);
    SHOW(recv(s[0], b, sizeof b, MSG_DONTWAIT));
    SHOW(recv(s[0], b, sizeof b, MSG_DONTWAIT));
    SHOW(shutdown(s[0], 7));
    close(s[0]);
    events("1 after close", s[1]);
    SHOW(recv(s[1], b, sizeof b, MSG_DONTWAIT));
    SHOW(send(s[1], "x", 1, MSG_NOSIGNAL));
    close(s[1]);
    /* closing with unread data is a reset */
    socketpair(AF_UNIX, type, 0, s);
    send(s[0], "lost", 4, 0);
    send(s[1], "seen", 4, 0);
    close(s[1]);
    events("reset", s[0]);
    SHOW(recv(s[0], b, sizeof b, MSG_DONTWAIT));
    SHOW(recv(s[0], b, sizeof b, MSG_DONTWAIT));
    SHOW(send(s[0], "x", 1, MSG_NOSIGNAL));
    SHOW(recv(s[0], b, sizeof b, MSG_DONTWAIT));
    close(s[0]);
}
static volatile int pipes;
static void on_pipe(int s) { pipes++; }
int main(void) {
    one(SOCK_STREAM);
    one(SOCK_DGRAM);
    one(SOCK_SEQPACKET);
    signal(SIGPIPE, on_pipe);
    int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    for (int i = 0; i < 3; i++) {
        int s[2];
        socketpair(AF_UNIX, types[i], 0, s);
        close(s[1]);
        pipes = 0;
        SHOW(write(s[0], "x", 1));
        SHOW(send(s[0], "x", 1, 0));
        SHOW(sendto(s[0], "x", 1, MSG_NOSIGNAL, NULL, 0));
        printf("signals %d\n", pipes);
        close(s[0]);
    }
    int s[2];
    SHOW(socketpair(AF_UNIX, SOCK_STREAM, 5, s));
    SHOW(socketpair(AF_UNIX, 4, 0, s));
    SHOW(socketpair(AF_INET, SOCK_STREAM, 0, s));
    SHOW(socketpair(AF_UNIX, SOCK_STREAM | 0x100000, 0, s));
    SHOW(socketpair(AF_UNIX, SOCK_STREAM, 0, (int *)8));
    SHOW(socket(AF_UNIX, SOCK_RAW, 0));
    SHOW(socket(77, SOCK_STREAM, 0));
    SHOW(socket(AF_UNIX, 77, 0));
    SHOW(socket(-1, SOCK_STREAM, 0));
    SHOW(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    SHOW(fcntl(4, F_GETFD));
    SHOW(fcntl(4, F_GETFL));
    struct stat st;
    fstat(4, &st);
    printf("%o\n", st.st_mode);
    SHOW(lseek(4, 0, SEEK_SET));
    SHOW(listen(0, 1));
    SHOW(listen(99, 1));
    return 0;
}
