/* F_NOTIFY: signals about what happens in a directory, once or every time. */
#include "event_show.h"
#include <sys/stat.h>

static int got, got_fd, got_code, got_band;

static void handler(int signo, siginfo_t *info, void *context)
{
    got++;
    got_fd = info->si_fd;
    got_code = info->si_code;
    got_band = (int)info->si_band;
}

static int watched;

static void show(const char *what)
{
    printf("%s: %d", what, got);
    if (got)
        printf(" same %d code %d band %x", got_fd == watched, got_code, got_band);
    printf("\n");
    fflush(stdout);
    got = 0;
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    mkdir("d", 0777);
    mkdir("e", 0777);
    int d = watched = open("d", O_RDONLY | O_DIRECTORY);
    int f = open("d/f", O_RDWR | O_CREAT, 0666);
    SHOW(fcntl(f, F_NOTIFY, DN_CREATE));
    SHOW(fcntl(f, F_NOTIFY, 0));
    SHOW(fcntl(d, F_NOTIFY, 0));
    SHOW(fcntl(d, F_NOTIFY, 0x40000000));
    SHOW(fcntl(d, F_SETSIG, SIGUSR1));
    SHOW(fcntl(d, F_NOTIFY, DN_CREATE));
    SHOW(fcntl(d, F_GETOWN) == getpid());
    close(open("d/g", O_RDWR | O_CREAT, 0666));
    show("create");
    close(open("d/h", O_RDWR | O_CREAT, 0666));
    show("create again");
    SHOW(fcntl(d, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
    close(open("d/i", O_RDWR | O_CREAT, 0666));
    show("create many");
    mkdir("d/s", 0777);
    show("mkdir");
    link("d/i", "d/j");
    show("link");
    unlink("d/j");
    show("unlink unasked");
    SHOW(fcntl(d, F_NOTIFY, DN_DELETE | DN_MULTISHOT));
    unlink("d/i");
    show("unlink");
    rmdir("d/s");
    show("rmdir");
    close(open("d/k", O_RDWR | O_CREAT, 0666));
    show("create still");
    SHOW(fcntl(d, F_NOTIFY, 0));
    unlink("d/k");
    show("stopped");
    SHOW(fcntl(d, F_NOTIFY, DN_RENAME | DN_MULTISHOT));
    rename("d/g", "d/g2");
    show("rename within");
    rename("d/g2", "e/g2");
    show("rename out");
    rename("e/g2", "d/g");
    show("rename in");
    fcntl(d, F_NOTIFY, 0);
    SHOW(fcntl(d, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
    rename("d/g", "d/g2");
    show("rename within, asked for creation");
    rename("d/g2", "e/g2");
    show("rename out, asked for creation");
    rename("e/g2", "d/g");
    show("rename in, asked for creation");
    fcntl(d, F_NOTIFY, 0);
    SHOW(fcntl(d, F_NOTIFY, DN_DELETE | DN_MULTISHOT));
    rename("d/g", "d/g2");
    show("rename within, asked for deletion");
    rename("d/g2", "e/g2");
    show("rename out, asked for deletion");
    rename("e/g2", "d/g");
    show("rename in, asked for deletion");
    fcntl(d, F_NOTIFY, 0);
    SHOW(fcntl(d, F_NOTIFY, DN_MODIFY | DN_MULTISHOT));
    write(f, "x", 1);
    show("write");
    ftruncate(f, 0);
    show("truncate");
    fcntl(d, F_NOTIFY, 0);
    SHOW(fcntl(d, F_NOTIFY, DN_ATTRIB | DN_MULTISHOT));
    fchmod(f, 0600);
    show("chmod");
    fchmod(d, 0755);
    show("chmod of the directory itself");
    fcntl(d, F_NOTIFY, 0);
    SHOW(fcntl(d, F_NOTIFY, DN_ACCESS | DN_MULTISHOT));
    char b[4];
    pwrite(f, "x", 1, 0);
    pread(f, b, 1, 0);
    show("read");
    fcntl(d, F_NOTIFY, 0);
    int d2 = open("d", O_RDONLY), copy = dup(d2);
    SHOW(fcntl(d2, F_SETSIG, SIGUSR1));
    SHOW(fcntl(d2, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
    watched = d2;
    close(open("d/l", O_RDWR | O_CREAT, 0666));
    show("another");
    close(copy);
    close(open("d/m", O_RDWR | O_CREAT, 0666));
    show("copy closed");
    SHOW(fcntl(d2, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
    close(d2);
    close(open("d/n", O_RDWR | O_CREAT, 0666));
    show("closed");
    return 0;
}
