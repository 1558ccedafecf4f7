/* The events of watches of a directory and of a file; names, cookies, IN_IGNORED; masks and errors. */
#include "event_show.h"
#include <dirent.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

static int fd;

static void show(const char *what)
{
    char b[8192] __attribute__((aligned(8)));
    int n = read(fd, b, sizeof b), cookie = 0;
    printf("%s:", what);
    for (int at = 0; at < n;) {
        struct inotify_event *e = (void *)(b + at);
        if (e->cookie && !cookie)
            cookie = e->cookie;
        printf(" [%d %x %s%s]", e->wd, e->mask, e->len ? e->name : "", e->cookie ? e->cookie == cookie ? " same" : " other" : "");
        at += sizeof *e + e->len;
    }
    printf(n < 0 ? " none\n" : "\n");
    fflush(stdout);
}

int main(void)
{
    char b[10];
    SHOW(inotify_init1(4));
    fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    SHOW(fcntl(fd, F_GETFD));
    mkdir("d", 0700);
    SHOW(inotify_add_watch(fd, "d", IN_ALL_EVENTS));
    SHOW(inotify_add_watch(fd, "d", 0));
    SHOW(inotify_add_watch(fd, "missing", IN_OPEN));
    SHOW(inotify_add_watch(0, "d", IN_OPEN));
    SHOW(inotify_rm_watch(fd, 77));
    show("nothing yet");
    int f = open("d/file", O_CREAT | O_RDWR, 0600);
    show("create");
    write(f, "hello", 5);
    show("write");
    write(f, "hello", 5);
    write(f, "hello", 5);
    show("two writes");
    lseek(f, 0, SEEK_SET);
    read(f, b, 5);
    show("read");
    ftruncate(f, 2);
    show("ftruncate");
    fchmod(f, 0644);
    show("fchmod");
    close(f);
    show("close");
    f = open("d/file", O_RDONLY);
    close(f);
    show("open and close");
    f = open("d/file", O_RDWR | O_TRUNC);
    show("truncating open");
    close(f);
    show("close");
    rename("d/file", "d/other");
    show("rename inside");
    rename("d/other", "outside");
    show("move out");
    rename("outside", "d/back");
    show("move in");
    link("d/back", "d/second");
    show("link");
    symlink("x", "d/sym");
    show("symlink");
    mkdir("d/sub", 0700);
    show("mkdir");
    rmdir("d/sub");
    show("rmdir");
    unlink("d/second");
    show("unlink");
    chmod("d", 0755);
    show("chmod of the directory");
    int w = inotify_add_watch(fd, "d/back", IN_DELETE_SELF | IN_MOVE_SELF | IN_ATTRIB | IN_MODIFY);
    printf("%d\n", w);
    truncate("d/back", 100);
    show("truncate");
    rename("d/back", "d/moved");
    show("rename of a watched file");
    SHOW(inotify_rm_watch(fd, w));
    show("removed");
    f = open("plain", O_CREAT | O_WRONLY, 0600);
    close(f);
    w = inotify_add_watch(fd, "plain", IN_OPEN | IN_ONESHOT);
    printf("%d\n", w);
    close(open("plain", O_RDONLY));
    close(open("plain", O_RDONLY));
    show("one-shot");
    w = inotify_add_watch(fd, "plain", IN_OPEN);
    SHOW(inotify_add_watch(fd, "plain", IN_ATTRIB | IN_MASK_ADD) == w);
    SHOW(inotify_add_watch(fd, "plain", IN_ATTRIB | IN_MASK_CREATE));
    close(open("plain", O_RDONLY));
    chmod("plain", 0644);
    show("added mask");
    SHOW(inotify_add_watch(fd, "plain", IN_ONLYDIR | IN_OPEN));
    SHOW(inotify_add_watch(fd, "d/sym", IN_DONT_FOLLOW | IN_OPEN) > 0);
    SHOW(inotify_add_watch(fd, "d/sym", IN_OPEN));
    unlink("plain");
    show("unlink of a watched file");
    unlink("d/moved");
    unlink("d/sym");
    show("unlink in the directory");
    SHOW(rmdir("d"));
    show("rmdir of the watched directory");
    mkdir("listed", 0700);
    close(open("listed/one", O_CREAT | O_RDWR, 0600));
    inotify_add_watch(fd, "listed", IN_ACCESS);
    int listed = open("listed", O_RDONLY | O_DIRECTORY);
    char entries[1000];
    for (int i = 0; i < 3; i++) {
        SHOW(getdents64(listed, entries, sizeof entries) > 0);
        show("getdents");
    }
    return 0;
}
