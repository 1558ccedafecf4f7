#include "file_common.h"

int main(void)
{
    struct rlimit rl = {10, 10};
    put_file("f", "x");
    setrlimit(RLIMIT_NOFILE, &rl);
    int last = -1, fd;
    while ((fd = open("f", O_RDONLY)) >= 0)
        last = fd;
    printf("last %d %s\n", last, strerrorname_np(errno));
    T(open("none", O_RDONLY));
    T(open("made", O_CREAT | O_RDWR, 0600));
    T(access("made", F_OK));
    T(dup(0));
    T(dup2(0, 9));
    T(dup2(0, 10));
    T(dup3(0, 10, 0));
    T(fcntl(0, F_DUPFD, 9));
    T(fcntl(0, F_DUPFD, 10));
    int p[2];
    T(pipe(p));
    close(9);
    T(pipe(p));
    T(socket(AF_UNIX, SOCK_STREAM, 0));
    T(memfd_create("x", 0));
    close(5);
    close(7);
    T(open("f", O_RDONLY));
    T(open("f", O_RDONLY));
    return 0;
}
