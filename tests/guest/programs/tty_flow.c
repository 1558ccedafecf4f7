/* ^S and ^Q, TCXONC, IXANY, full buffers. */
#include "tty_show.h"

int main(void)
{
    static char b[100000];
    open_pair();
    type("\x13");
    fcntl(slave, F_SETFL, O_NONBLOCK);
    show_poll("stopped", slave, POLLOUT);
    SHOW(write(slave, "held", 4));
    drain("nothing", master);
    type("typed");
    drain("no echo either", master);
    type("\x11");
    show_poll("started", slave, POLLOUT);
    SHOW(write(slave, "free", 4));
    drain("echo, then output", master);
    SHOW(ioctl(slave, TCXONC, TCOOFF));
    SHOW(write(slave, "held", 4));
    SHOW(ioctl(slave, TCXONC, TCOON));
    SHOW(write(slave, "free", 4));
    drain("output", master);
    SHOW(ioctl(slave, TCXONC, TCIOFF));
    SHOW(ioctl(slave, TCXONC, TCION));
    SHOW(ioctl(slave, TCXONC, 7));
    drain("flow characters", master);
    set_mode(ICRNL | IXON | IXANY, OPOST, ICANON, 1, 0);
    type("\x13");
    SHOW(write(slave, "held", 4));
    type("x");
    SHOW(write(slave, "any key", 7));
    drain("any", master);
    /* A blocked writer goes on when the output is started. */
    fcntl(slave, F_SETFL, 0);
    type("\x13");
    if (!fork()) {
        nap_ms(30);
        write(master, "\x11", 1);
        _exit(0);
    }
    long long start = now_ms();
    SHOW(write(slave, "after", 5));
    printf("waited %d\n", now_ms() - start >= 25);
    wait(NULL);
    drain("after", master);
    /* Everything that fits, and everything that was written comes out. */
    fcntl(slave, F_SETFL, O_NONBLOCK);
    set_mode(0, 0, 0, 1, 0);
    tcflush(slave, TCIOFLUSH);
    long total = 0, got = 0, n;
    for (int tries = 0; tries < 20;) { /* a worker of the host's takes some away meanwhile */
        n = write(slave, b, 1000);
        if (n > 0)
            total += n;
        else
            nap_ms(2), tries++;
    }
    printf("filled %d %s\n", total >= 4096 && total <= 200000, strerrorname_np(errno));
    show_poll("full", slave, POLLOUT);
    struct pollfd p = {master, POLLIN};
    while (poll(&p, 1, 50) == 1)
        got += read(master, b, sizeof b);
    printf("same %d\n", got == total);
    show_poll("drained", slave, POLLOUT);
    fcntl(master, F_SETFL, O_NONBLOCK);
    total = got = 0;
    for (int tries = 0; tries < 20;) {
        n = write(master, b, 1000);
        if (n > 0)
            total += n;
        else
            nap_ms(2), tries++;
    }
    printf("filled %d %s\n", total >= 4095 && total <= 200000, strerrorname_np(errno));
    p.fd = slave;
    while (poll(&p, 1, 50) == 1)
        got += read(slave, b, sizeof b);
    printf("same %d\n", got == total);
    /* A long line. */
    set_mode(ICRNL, 0, ICANON, 1, 0);
    memset(b, 'x', sizeof b);
    write(master, b, 3000);
    nap_ms(5);
    write(master, b, 3000);
    nap_ms(5);
    type("\n");
    SHOW(read(slave, b, sizeof b));
    printf("%d\n", b[4095] == '\n');
    return 0;
}
