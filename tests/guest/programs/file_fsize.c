#include "file_common.h"

static volatile int hits;
static void on_xfsz(int s) { hits++; }

int main(void)
{
    char b[20] = "0123456789abcdef";
    long r[11];
    int n = 0, p[2];
    int big = open("big", O_RDWR | O_CREAT, 0600);
    write(big, b, 16);
    pipe(p);
    if (fork() == 0) {
        struct rlimit rl = {10, 10};
        signal(SIGXFSZ, on_xfsz);
        int fd = open("f", O_RDWR | O_CREAT, 0600);
        setrlimit(RLIMIT_FSIZE, &rl);
        r[n++] = write(fd, b, 16);
        r[n++] = write(fd, b, 1) < 0 ? -errno : 0;
        r[n++] = pwrite(fd, b, 5, 8);
        r[n++] = pwrite(fd, b, 5, 10) < 0 ? -errno : 0;
        r[n++] = ftruncate(fd, 11) < 0 ? -errno : 0;
        r[n++] = ftruncate(fd, 10) < 0 ? -errno : 0;
        r[n++] = ftruncate(big, 12) < 0 ? -errno : 0;
        r[n++] = fallocate(fd, 0, 0, 20) < 0 ? -errno : 0;
        r[n++] = write(p[1], b, 16);
        r[n++] = lseek(fd, 0, SEEK_END);
        r[n++] = hits;
        write(p[1], r, sizeof r);
        exit(0);
    }
    wait(0);
    read(p[0], b, 16);
    read(p[0], r, sizeof r);
    for (n = 0; n < 11; n++)
        printf("%d: %ld\n", n, r[n]);
    return 0;
}
