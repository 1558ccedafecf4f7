/* Input that was typed in one mode and is read in another: the end of file that ^D left is a NUL to a raw reader. */
#include "tty_show.h"

static void show_input(const char *what)
{
    int n = -1;
    ioctl(slave, FIONREAD, &n);
    printf("%s: %d to read\n", what, n);
    drain(what, slave);
}

static void canonical(void) { set_mode(ICRNL, OPOST, ICANON, 1, 0); }

static void raw(void) { set_mode(0, 0, 0, 1, 0); }

/* Wait until that much has come from the other side, which the host's kernel moves in a thread of its own. */
static void arrives(int count)
{
    struct pollfd input = {slave, POLLIN, 0};
    int n = 0;
    poll(&input, 1, 60000);
    while (ioctl(slave, FIONREAD, &n) == 0 && n < count)
        usleep(1000);
}

int main(void)
{
    open_pair();
    canonical();
    type("\x04");
    arrives(0);
    raw();
    show_input("end of file, then raw");
    canonical();
    type("ab\x04" "cd\r" "ef\x04\x04" "gh");
    arrives(0);
    raw();
    show_input("lines, then raw");
    type("xy");
    arrives(2);
    canonical();
    show_input("raw, then canonical");
    type("z\r");
    arrives(2);
    show_input("the rest");
    type("ij\x04");
    arrives(0);
    raw();
    type("kl");
    arrives(5);
    canonical();
    show_input("there and back");
    type("mn\x04");
    arrives(0);
    raw();
    canonical();
    show_input("end of file, there and back");
    type("op\x04");
    arrives(0);
    raw();
    tcflush(slave, TCIFLUSH);
    show_input("flushed");
    return 0;
}
