/* Lines, editing, echo, end of file, partial reads, FIONREAD, poll. */
#include "tty_show.h"

int main(void)
{
    char b[100];
    int n;
    open_pair();
    struct termios t;
    SHOW(tcgetattr(slave, &t));
    printf("%x %x %x %x\n", t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag);
    for (int i = 0; i < 17; i++)
        printf("%d ", t.c_cc[i]);
    printf("\nspeeds %d %d\n", cfgetispeed(&t) == B38400, cfgetospeed(&t) == B38400);
    show_poll("nothing typed", slave, POLLIN | POLLOUT);
    type("hel");
    show_poll("half a line", slave, POLLIN);
    SHOW(ioctl(slave, FIONREAD, &n));
    printf("%d\n", n);
    type("lo\rnext\r");
    show_poll("two lines", slave, POLLIN);
    ioctl(slave, FIONREAD, &n);
    printf("%d\n", n);
    n = read(slave, b, 2);
    quote("part", b, n);
    n = read(slave, b, 100);
    quote("rest", b, n);
    n = read(slave, b, 100);
    quote("next", b, n);
    drain("echo", master);
    type("wrong\x7f\x7f\x7f\x7f\x7fright\n");
    n = read(slave, b, 100);
    quote("erased", b, n);
    type("one two\x17three\x15" "four\n");
    n = read(slave, b, 100);
    quote("killed", b, n);
    type("a\x16\x03" "b\x01\x7f\n");
    n = read(slave, b, 100);
    quote("literal", b, n);
    type("end\x04");
    n = read(slave, b, 100);
    quote("eof after text", b, n);
    type("\x04");
    SHOW(read(slave, b, 100));
    type("exact\x04");
    SHOW(read(slave, b, 5));
    fcntl(slave, F_SETFL, O_NONBLOCK);
    SHOW(read(slave, b, 5));
    fcntl(slave, F_SETFL, 0);
    drain("echo", master);
    SHOW(write(slave, "out\nput\r\n\ttab", 13));
    drain("screen", master);
    if (!fork()) {
        nap_ms(20);
        write(master, "late\n", 5);
        _exit(0);
    }
    n = read(slave, b, 100);
    quote("late", b, n);
    wait(NULL);
    SHOW(isatty(slave));
    SHOW(isatty(master));
    SHOW(lseek(slave, 0, SEEK_SET));
    return 0;
}
