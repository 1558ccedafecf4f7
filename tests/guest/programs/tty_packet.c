/* TIOCPKT, TIOCSIG, EXTPROC-free packet statuses, TCGETA, termios2. */
#include "tty_show.h"
#include <sys/syscall.h>

struct termios2_ {
    unsigned c_iflag, c_oflag, c_cflag, c_lflag;
    unsigned char c_line, c_cc[19];
    unsigned c_ispeed, c_ospeed;
};
struct termio_ {
    unsigned short c_iflag, c_oflag, c_cflag, c_lflag;
    unsigned char c_line, c_cc[8];
};

int main(void)
{
    int one = 1, zero = 0, n;
    struct termios t;
    struct termios2_ t2;
    struct termio_ t1;
    open_pair();
    SHOW(ioctl(master, TIOCPKT, &one));
    SHOW(ioctl(master, TIOCGPKT, &n));
    printf("%d\n", n);
    write(slave, "data", 4);
    drain("packet", master);
    tcflush(slave, TCIFLUSH);
    show_poll("flush", master, POLLIN | POLLPRI);
    drain("flush read", master);
    tcflush(slave, TCOFLUSH);
    drain("flush write", master);
    tcgetattr(slave, &t);
    t.c_iflag &= ~IXON;
    tcsetattr(slave, TCSANOW, &t);
    drain("no stop", master);
    t.c_iflag |= IXON;
    tcsetattr(slave, TCSANOW, &t);
    drain("do stop", master);
    type("\x13");
    drain("stop", master);
    type("\x11");
    drain("start", master);
    SHOW(ioctl(master, TIOCPKT, &zero));
    write(slave, "plain", 5);
    drain("no packet", master);
    SHOW(ioctl(slave, TIOCPKT, &one));
    SHOW(ioctl(master, TIOCSIG, 2));
    SHOW(ioctl(master, TIOCSIG, 9));
    SHOW(ioctl(slave, 0x802c542a, &t2));
    printf("%x %x %x %x %u %u\n", t2.c_iflag, t2.c_oflag, t2.c_cflag, t2.c_lflag, t2.c_ispeed, t2.c_ospeed);
    cfsetspeed(&t, B115200);
    SHOW(tcsetattr(slave, TCSANOW, &t));
    SHOW(ioctl(slave, 0x802c542a, &t2));
    printf("%x %u %u\n", t2.c_cflag & 0x100f, t2.c_ispeed, t2.c_ospeed);
    t2.c_cflag = t2.c_cflag & ~0x100f | 0x1000;
    t2.c_ispeed = t2.c_ospeed = 12345;
    SHOW(ioctl(slave, 0x402c542b, &t2));
    SHOW(ioctl(slave, 0x802c542a, &t2));
    printf("%x %u %u\n", t2.c_cflag & 0x100f, t2.c_ispeed, t2.c_ospeed);
    SHOW(ioctl(slave, TCGETA, &t1));
    printf("%x %x %x %x\n", t1.c_iflag, t1.c_oflag, t1.c_cflag & 0x3f0, t1.c_lflag);
    t1.c_lflag &= ~ECHO;
    SHOW(ioctl(slave, TCSETA, &t1));
    tcgetattr(slave, &t);
    printf("%d\n", !!(t.c_lflag & ECHO));
    t.c_cflag = 0;
    tcsetattr(slave, TCSANOW, &t);
    tcgetattr(master, &t);
    printf("%x\n", t.c_cflag);
    SHOW(ioctl(slave, TIOCGSOFTCAR, &n));
    SHOW(ioctl(slave, TIOCMGET, &n));
    SHOW(tcgetattr(0, &t));
    SHOW(ioctl(open("/dev/null", O_RDWR), TIOCGWINSZ, &n));
    return 0;
}
