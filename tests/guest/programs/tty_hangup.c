/* The view of each side when the other closes; locks; exclusive use; names. */
#include "tty_show.h"
#include <sys/stat.h>
#include <sys/sysmacros.h>

int main(void)
{
    char b[100];
    int one = 1, zero = 0, n, number;
    signal(SIGHUP, SIG_IGN);
    int m = open("/dev/ptmx", O_RDWR | O_NOCTTY);
    SHOW(ioctl(m, TIOCGPTLCK, &n));
    printf("locked %d\n", n);
    ioctl(m, TIOCGPTN, &number);
    char name[64];
    snprintf(name, sizeof name, "/dev/pts/%d", number);
    SHOW(open(name, O_RDWR | O_NOCTTY));
    SHOW(ioctl(m, TIOCSPTLCK, &zero));
    fcntl(m, F_SETFL, O_NONBLOCK);
    show_poll("no slave yet", m, POLLIN | POLLOUT);
    SHOW(read(m, b, 10));
    int s = open(name, O_RDWR | O_NOCTTY);
    struct stat st;
    fstat(s, &st);
    printf("%o %d %d\n", st.st_mode & 0170000, major(st.st_rdev), minor(st.st_rdev) == number);
    printf("name %d\n", ttyname_r(s, b, sizeof b) == 0 && !strcmp(b, name));
    printf("ptsname %d\n", !strcmp(ptsname(m), name));
    SHOW(ioctl(s, TIOCGPTN, &n));
    SHOW(write(s, "bye", 3));
    int s2 = dup(s);
    close(s);
    show_poll("one slave left", m, POLLIN);
    close(s2);
    nap_ms(2);
    show_poll("slave gone, data left", m, POLLIN | POLLOUT);
    SHOW(read(m, b, 10));
    SHOW(read(m, b, 10));
    show_poll("slave gone", m, POLLIN);
    s = open(name, O_RDWR | O_NOCTTY);
    SHOW(read(m, b, 10));
    show_poll("slave back", m, POLLIN);
    SHOW(ioctl(s, TIOCEXCL));
    SHOW(ioctl(s, TIOCGEXCL, &n));
    printf("exclusive %d\n", n);
    SHOW(ioctl(s, TIOCNXCL));
    int peer = ioctl(m, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    SHOW(peer >= 0);
    printf("peer name %d\n", ttyname_r(peer, b, sizeof b) == 0 && !strcmp(b, name));
    SHOW(ioctl(s, 0x5499, &n));
    SHOW(ioctl(s, TIOCGETD, &n));
    printf("discipline %d\n", n);
    n = 77;
    SHOW(ioctl(s, TIOCSETD, &n));
    SHOW(ioctl(s, TIOCOUTQ, &n));
    write(m, "unread\n", 7);
    nap_ms(2);
    close(m);
    nap_ms(2);
    show_poll("master gone", s, POLLIN | POLLOUT);
    SHOW(read(s, b, 10));
    SHOW(write(s, "x", 1));
    struct termios t;
    SHOW(tcgetattr(s, &t));
    SHOW(tcgetpgrp(s));
    SHOW(tcsetpgrp(s, getpgrp()));
    SHOW(open(name, O_RDWR | O_NOCTTY) < 0);
    /* A blocked reader is released by the hangup. */
    open_pair();
    if (!fork()) {
        close(master);
        SHOW(read(slave, b, 10));
        _exit(0);
    }
    nap_ms(20);
    close(master);
    wait(NULL);
    open_pair();
    if (!fork()) {
        nap_ms(20);
        _exit(0);
    }
    close(slave);
    SHOW(read(master, b, 10));
    wait(NULL);
    return 0;
}
