#include "file_common.h"

int main(void)
{
    char b[100];
    put_file("f", "0123456789");
    int in = open("f", O_RDONLY), out = open("g", O_RDWR | O_CREAT, 0600), wo = open("f", O_WRONLY);
    off_t off = 2;
    T(sendfile(out, in, &off, 3));
    printf("off %ld\n", (long)off);
    T(lseek(in, 0, SEEK_CUR));
    T(sendfile(out, in, 0, 100));
    T(sendfile(out, in, 0, 100));
    T(sendfile(out, in, 0, 0));
    show_file("g");
    off = -1;
    T(sendfile(out, in, &off, 1));
    off = 100;
    T(sendfile(out, in, &off, 1));
    T(sendfile(out, wo, 0, 1));
    T(sendfile(in, in, 0, 1));
    T(sendfile(out, -1, 0, 1));
    T(sendfile(-1, in, 0, 1));
    T(sendfile(out, in, (off_t *)8, 1));
    int p[2], ap = open("h", O_WRONLY | O_CREAT | O_APPEND, 0600), d = open(".", O_RDONLY);
    pipe(p);
    off = 0;
    T(sendfile(p[1], in, &off, 10));
    T(read(p[0], b, 100));
    T(sendfile(out, p[0], &off, 10));
    T(sendfile(ap, in, &off, 10));
    off = 0;
    T(sendfile(out, d, &off, 10));
    int s[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    T(sendfile(s[0], in, &off, 4));
    T(read(s[1], b, 100));
    /* A reader that is slow: sendfile waits for it. */
    int big = open("big", O_RDWR | O_CREAT, 0600);
    ftruncate(big, 300000);
    fflush(stdout);
    if (fork() == 0) {
        static char sink[7000];
        long total = 0, n;
        close(p[1]);
        while ((n = read(p[0], sink, sizeof sink)) > 0)
            total += n;
        printf("read %ld\n", total);
        exit(0);
    }
    close(p[0]);
    off = 0;
    long total = 0, n;
    while ((n = sendfile(p[1], big, &off, 300000)) > 0)
        total += n;
    printf("sent %ld off %ld\n", total, (long)off);
    fflush(stdout);
    close(p[1]);
    wait(0);
    return 0;
}
