/* A pseudo-terminal pair for the terminal programs. */
#include "event_show.h"
#include <sys/ioctl.h>
#include <termios.h>

static int master, slave;

static inline void open_pair(void)
{
    int zero = 0, number;
    char name[64];
    master = open("/dev/ptmx", O_RDWR | O_NOCTTY);
    ioctl(master, TIOCSPTLCK, &zero);
    ioctl(master, TIOCGPTN, &number);
    snprintf(name, sizeof name, "/dev/pts/%d", number);
    slave = open(name, O_RDWR | O_NOCTTY);
    if (master < 0 || slave < 0)
        printf("no pair: %d %d\n", master, slave), exit(1);
}

static inline void quote(const char *what, const char *data, int count)
{
    printf("%s: %d \"", what, count);
    for (int i = 0; i < count; i++)
        if (data[i] >= 32 && data[i] < 127)
            putchar(data[i]);
        else
            printf("\\%03o", (unsigned char)data[i]);
    printf("\"\n");
    fflush(stdout);
}

/* Everything that is readable within a short time. */
static inline void drain(const char *what, int fd)
{
    char b[65536];
    int total = 0, n;
    struct pollfd p = {fd, POLLIN};
    while (total < (int)sizeof b && poll(&p, 1, 40) == 1 && p.revents & POLLIN) {
        n = read(fd, b + total, sizeof b - total);
        if (n <= 0)
            break;
        total += n;
    }
    quote(what, b, total);
}

static inline void type(const char *keys)
{
    write(master, keys, strlen(keys));
    nap_ms(5);
}

static inline void set_mode(int iflag, int oflag, int lflag, int min, int time)
{
    struct termios t;
    tcgetattr(slave, &t);
    t.c_iflag = iflag;
    t.c_oflag = oflag;
    t.c_lflag = lflag;
    t.c_cc[VMIN] = min;
    t.c_cc[VTIME] = time;
    tcsetattr(slave, TCSANOW, &t);
}
