/* Root may give a user namespace all ids; but a user namespace does not give its root the terminal of a session
 * outside of it. */
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHOW(call)                                                                                                      \
    do {                                                                                                                \
        errno = 0;                                                                                                      \
        long result_ = (long)(call);                                                                                    \
        printf("%s: %s\n", #call, result_ < 0 ? strerrorname_np(errno) : result_ ? "more" : "0");                       \
        fflush(stdout);                                                                                                 \
    } while (0)

static int put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        return -1;
    int result = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    errno = -result;
    return result ? -1 : 0;
}

static void show_map(void)
{
    char text[256];
    int fd = open("/proc/self/uid_map", O_RDONLY);
    long got = read(fd, text, sizeof text - 1);
    printf("map: %.*s", (int)(got > 0 ? got : 1), got > 0 ? text : "\n");
    close(fd);
}

static void mapped(const char *map)
{
    int made[2], written[2];
    char byte, path[64];
    pipe(made);
    pipe(written);
    printf("-- %s\n", map);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        SHOW(unshare(CLONE_NEWUSER));
        write(made[1], "x", 1);
        read(written[0], &byte, 1);
        show_map();
        struct stat root;
        stat("/", &root);
        printf("we are %u, / is of %u\n", getuid(), root.st_uid);
        SHOW(setresuid(5, 5, 0));
        SHOW(setresuid(-2, -2, -2));
        printf("we are %u %u\n", getuid(), geteuid());
        fflush(stdout);
        _exit(0);
    }
    read(made[0], &byte, 1);
    snprintf(path, sizeof path, "/proc/%d/uid_map", child);
    SHOW(put(path, map));
    SHOW(put(path, map)); /* once only */
    snprintf(path, sizeof path, "/proc/%d/gid_map", child);
    SHOW(put(path, map));
    write(written[1], "x", 1);
    waitpid(child, NULL, 0);
}

static void in_child(void (*what)(int), int slave)
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        setsid();
        what(slave);
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, &status, 0);
    printf("status %x\n", status);
}

static void from_inside(int slave)
{
    SHOW(unshare(CLONE_NEWUSER));
    SHOW(put("/proc/self/uid_map", "0 0 1"));
    SHOW(ioctl(slave, TIOCSCTTY, 0));
    SHOW(ioctl(slave, TIOCSCTTY, 1));
    SHOW(tcgetsid(slave));
}

static void as_root(int slave)
{
    SHOW(ioctl(slave, TIOCSCTTY, 0));
    SHOW(ioctl(slave, TIOCSCTTY, 1));
    SHOW(tcgetsid(slave) == getpid());
}

static void terminals(void)
{
    int master, slave, ready[2];
    char byte;
    if (openpty(&master, &slave, NULL, NULL, NULL))
        return;
    pipe(ready);
    fflush(stdout);
    pid_t owner = fork();
    if (owner == 0) {
        setsid();
        ioctl(slave, TIOCSCTTY, 0);
        write(ready[1], "x", 1);
        pause();
    }
    read(ready[0], &byte, 1);
    in_child(from_inside, slave);
    in_child(as_root, slave);
    kill(owner, SIGKILL);
    waitpid(owner, NULL, 0);
}

int main(void)
{
    mapped("0 0 4294967295");
    mapped("0 0 4294967294");
    mapped("10 0 4294967285");
    mapped("1 0 4294967295");
    mapped("0 0 1\n1 1 4294967294");
    terminals();
    return 0;
}
