/* Non-canonical modes with VMIN and VTIME, raw, cbreak, flags of input and output, switching back and forth. */
#include "tty_show.h"

static int timed_read(char *b, int n, int *ms)
{
    long long start = now_ms();
    int got = read(slave, b, n);
    *ms = now_ms() - start;
    return got;
}

int main(void)
{
    char b[100];
    int ms, n;
    open_pair();
    set_mode(0, 0, 0, 1, 0);
    type("a\r\n\x03\x7f\x04");
    n = read(slave, b, 100);
    quote("raw", b, n);
    write(slave, "x\ny", 3);
    drain("unprocessed", master);
    set_mode(0, 0, 0, 0, 0);
    SHOW(read(slave, b, 10));
    show_poll("nothing, VMIN 0", slave, POLLIN);
    type("q");
    SHOW(read(slave, b, 10));
    set_mode(0, 0, 0, 0, 2);
    n = timed_read(b, 10, &ms);
    printf("VTIME %d %d\n", n, ms >= 190);
    type("r");
    n = timed_read(b, 10, &ms);
    printf("VTIME %d %d\n", n, ms < 150);
    set_mode(0, 0, 0, 4, 0);
    type("ab");
    show_poll("two of four", slave, POLLIN);
    fcntl(slave, F_SETFL, O_NONBLOCK);
    SHOW(read(slave, b, 10));
    SHOW(read(slave, b, 10));
    fcntl(slave, F_SETFL, 0);
    if (!fork()) {
        for (int i = 0; i < 5; i++)
            nap_ms(10), write(master, "12345" + i, 1);
        _exit(0);
    }
    n = read(slave, b, 10);
    printf("at least four %d\n", n >= 4);
    wait(NULL);
    if (n == 4)
        read(slave, b, 1) /* the fifth */, 0;
    type("xy");
    SHOW(read(slave, b, 2));
    set_mode(0, 0, 0, 5, 1);
    type("xyz");
    n = timed_read(b, 10, &ms);
    printf("between bytes %d %d\n", n, ms >= 90);
    if (!fork()) {
        nap_ms(50);
        write(master, "1", 1);
        nap_ms(50);
        write(master, "2", 1);
        _exit(0);
    }
    n = timed_read(b, 10, &ms);
    printf("slow bytes %d %d\n", n, ms >= 190);
    wait(NULL);
    int iflags[] = {ICRNL, INLCR, IGNCR, ISTRIP, ICRNL | PARMRK};
    for (int i = 0; i < 5; i++) {
        set_mode(iflags[i], 0, 0, 1, 0);
        type("a\rb\nc\xe1\xff");
        drain("input flags", slave);
    }
    int oflags[] = {OPOST, OPOST | ONLCR, OPOST | OCRNL, OPOST | ONLRET, OPOST | ONOCR, OPOST | XTABS, ONLCR};
    for (int i = 0; i < 7; i++) {
        set_mode(0, oflags[i], 0, 1, 0);
        write(slave, "\ra\tb\rc\nd\t\r\n", 12);
        drain("output flags", master);
    }
    set_mode(0, OPOST | ONLCR, ECHO | ECHOCTL, 1, 0);
    type("k\x02\n\r\t");
    drain("echo", master);
    drain("read", slave);
    set_mode(ICRNL, OPOST | ONLCR, ICANON, 1, 0);
    type("typed");
    show_poll("canonical", slave, POLLIN);
    set_mode(0, 0, 0, 1, 0);
    show_poll("raw now", slave, POLLIN);
    set_mode(ICRNL, OPOST, ICANON, 1, 0);
    drain("canonical again", slave);
    type("dropped\n");
    struct termios t;
    tcgetattr(slave, &t);
    SHOW(tcsetattr(slave, TCSAFLUSH, &t));
    show_poll("flushed", slave, POLLIN);
    type("kept\n");
    SHOW(tcsetattr(slave, TCSADRAIN, &t));
    drain("drained", slave);
    type("dropped\n");
    SHOW(tcflush(slave, TCIFLUSH));
    show_poll("flushed", slave, POLLIN);
    SHOW(tcflush(slave, 9));
    SHOW(tcdrain(slave));
    SHOW(tcsendbreak(slave, 0));
    return 0;
}
