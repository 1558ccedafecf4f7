/* How much fits: whole pages, merging, F_SETPIPE_SZ, atomic writes, partial writes, when it polls writable. */
#include "event_show.h"

static long fill(int fd, int size)
{
    static char b[1 << 20];
    long total = 0, n;
    while ((n = write(fd, b, size)) > 0)
        total += n;
    return total;
}

int main(void)
{
    static char b[200000];
    int sizes[] = {1, 100, 2048, 2049, 4095, 4096, 4097, 5000, 8191, 65535, 65536, 100000};
    for (int i = 0; i < 12; i++) {
        int p[2];
        pipe2(p, O_NONBLOCK);
        printf("size %d: %ld", sizes[i], fill(p[1], sizes[i]));
        printf(" then 1: %ld\n", fill(p[1], 1));
        close(p[0]);
        close(p[1]);
    }
    int p[2];
    pipe2(p, O_NONBLOCK);
    SHOW(fcntl(p[0], F_GETPIPE_SZ));
    SHOW(fcntl(p[1], F_SETPIPE_SZ, 1));
    SHOW(fcntl(p[0], F_GETPIPE_SZ));
    SHOW(write(p[1], b, 5000));
    SHOW(write(p[1], b, 1));
    SHOW(fcntl(p[1], F_SETPIPE_SZ, 10000));
    SHOW(write(p[1], b, 4097));
    SHOW(write(p[1], b, 20000));
    SHOW(fcntl(p[1], F_SETPIPE_SZ, 4096));
    SHOW(fcntl(p[1], F_SETPIPE_SZ, 1 << 20));
    SHOW(fcntl(0, F_GETPIPE_SZ) >= -1);
    int f = open("/dev/null", O_RDWR);
    SHOW(fcntl(f, F_GETPIPE_SZ));
    close(p[0]);
    close(p[1]);
    pipe2(p, O_NONBLOCK);
    fill(p[1], 4096);
    show_poll("full", p[1], POLLOUT);
    SHOW(read(p[0], b, 4095));
    show_poll("one byte of a page left", p[1], POLLOUT);
    SHOW(write(p[1], b, 1));
    SHOW(read(p[0], b, 1));
    show_poll("a page free", p[1], POLLOUT);
    SHOW(write(p[1], b, 4097));
    SHOW(read(p[0], b, 8192));
    SHOW(write(p[1], b, 100));
    SHOW(read(p[0], b, 50));
    SHOW(write(p[1], b, 4096));
    SHOW(write(p[1], b, 4096));
    SHOW(read(p[0], b, 200000));
    return 0;
}
