/* Controlling terminals: adoption, TIOCSCTTY, TIOCNOTTY, /dev/tty, foreground groups, signals of keys, hangup. */
#include "tty_show.h"

static volatile int got[65];
static void on_signal(int s) { got[s]++; }

static void show_got(const char *what)
{
    nap_ms(10);
    printf("%s:", what);
    for (int i = 1; i < 65; i++)
        if (got[i])
            printf(" %d", i), got[i] = 0;
    printf("\n");
    fflush(stdout);
}

int main(void)
{
    char name[64];
    int number;
    open_pair();
    ioctl(master, TIOCGPTN, &number);
    snprintf(name, sizeof name, "/dev/pts/%d", number);
    SHOW(tcgetpgrp(slave));
    SHOW(tcgetpgrp(master));
    if (!fork()) {
        int none = 0;
        struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
        int signals[] = {SIGINT, SIGQUIT, SIGTSTP, SIGWINCH, SIGHUP, SIGCONT, SIGTTOU, SIGTTIN};
        SHOW(setsid() == getpid());
        SHOW(open("/dev/tty", O_RDWR));
        SHOW(tcgetpgrp(slave));
        close(open(name, O_RDWR | O_NOCTTY));
        SHOW(tcgetpgrp(slave));
        int s = open(name, O_RDWR);
        SHOW(tcgetpgrp(s) == getpid());
        SHOW(tcgetsid(s) == getpid());
        SHOW(tcgetpgrp(master) == getpid());
        int t = open("/dev/tty", O_RDWR);
        SHOW(t >= 0);
        SHOW(tcgetpgrp(t) == getpid());
        SHOW(ioctl(s, TIOCSCTTY, 0));
        for (int i = 0; i < 8; i++)
            sigaction(signals[i], &sa, NULL);
        type("\x03");
        show_got("^C");
        type("\x1c");
        show_got("^\\");
        type("\x1a");
        show_got("^Z");
        drain("echo of the keys", master);
        struct winsize w = {24, 80}, r;
        SHOW(ioctl(master, TIOCSWINSZ, &w));
        SHOW(ioctl(s, TIOCGWINSZ, &r));
        printf("%d x %d\n", r.ws_row, r.ws_col);
        show_got("resized");
        SHOW(ioctl(master, TIOCSWINSZ, &w));
        show_got("same size");
        /* A child in a background group. */
        pid_t c = fork();
        if (!c) {
            char b[10];
            setpgid(0, 0);
            type("for you\n");
            signal(SIGTTIN, SIG_IGN);
            SHOW(read(s, b, 10));
            sa.sa_flags = 0;
            sigaction(SIGTTIN, &sa, NULL);
            SHOW(read(s, b, 10));
            show_got("reading");
            SHOW(write(s, "allowed\n", 8));
            struct termios m;
            tcgetattr(s, &m);
            m.c_lflag |= TOSTOP;
            signal(SIGTTOU, SIG_IGN);
            SHOW(tcsetattr(s, TCSANOW, &m));
            SHOW(write(s, "ignored\n", 8));
            sigaction(SIGTTOU, &sa, NULL);
            SHOW(write(s, "x", 1));
            show_got("writing");
            SHOW(tcsetpgrp(s, getpid()));
            show_got("tcsetpgrp");
            sigset_t ttou;
            sigemptyset(&ttou);
            sigaddset(&ttou, SIGTTOU);
            sigprocmask(SIG_BLOCK, &ttou, NULL);
            SHOW(tcsetpgrp(s, getpid()));
            SHOW(tcgetpgrp(s) == getpid());
            SHOW(tcsetpgrp(s, 3999999));
            SHOW(tcsetpgrp(s, -1));
            type("\x03");
            show_got("^C as foreground");
            SHOW(ioctl(s, TIOCNOTTY, 0));
            SHOW(open("/dev/tty", O_RDWR));
            SHOW(read(s, b, 10));
            _exit(0);
        }
        waitpid(c, NULL, 0);
        show_got("parent meanwhile");
        SHOW(ioctl(s, TIOCNOTTY, 0));
        SHOW(tcgetpgrp(s));
        SHOW(open("/dev/tty", O_RDWR));
        SHOW(ioctl(s, TIOCSCTTY, 0));
        SHOW(tcgetpgrp(s) == getpid());
        show_got("before the hangup");
        close(master);
        master = -1;
        _exit(0);
    }
    wait(NULL);
    /* The leader is dead: the terminal has no session. */
    SHOW(tcgetsid(slave));
    /* A hangup signals the leader and the foreground. */
    int ready[2];
    pipe(ready);
    if (!fork()) {
        setsid();
        close(master);
        int s = open(name, O_RDWR);
        signal(SIGHUP, SIG_IGN);
        pid_t c = fork();
        if (!c) {
            struct sigaction sa = {.sa_handler = on_signal};
            sigaction(SIGHUP, &sa, NULL);
            write(ready[1], "r", 1);
            pause();
            show_got("foreground child");
            _exit(0);
        }
        char b;
        waitpid(c, NULL, 0);
        SHOW(read(s, &b, 1));
        SHOW(open("/dev/tty", O_RDWR));
        _exit(0);
    }
    char b;
    read(ready[0], &b, 1);
    nap_ms(10);
    close(master);
    wait(NULL);
    return 0;
}
