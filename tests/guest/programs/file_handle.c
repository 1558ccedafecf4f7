/* File handles: sizes, flags, the right to open one, and its fate when names change and are removed. */
#include "file_common.h"
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

struct handle {
    struct file_handle head;
    unsigned char room[132];
};

static struct handle h, g;

static int take(int dir, const char *name, int flags, struct handle *into)
{
    int mount;
    memset(into, 0, sizeof *into);
    into->head.handle_bytes = 128;
    return name_to_handle_at(dir, name, &into->head, &mount, flags);
}

static int same(void)
{
    return h.head.handle_bytes == g.head.handle_bytes && h.head.handle_type == g.head.handle_type &&
           !memcmp(h.room, g.room, h.head.handle_bytes);
}

static void show_name(int fd)
{
    char link[64], name[4096], here[4096];
    sprintf(link, "/proc/self/fd/%d", fd);
    int n = readlink(link, name, sizeof name - 1);
    name[n > 0 ? n : 0] = 0;
    size_t skip = strlen(getcwd(here, sizeof here));
    printf("  %s\n", !strncmp(name, here, skip) ? name + skip : name);
}

/* Open a handle, and print the kind of its file. */
static void look(const char *what, struct handle *handle, int flags)
{
    errno = 0;
    int fd = open_by_handle_at(AT_FDCWD, &handle->head, flags);
    struct stat st = {0};
    char text[64] = "";
    if (fd >= 0) {
        fstat(fd, &st);
        int n = pread(fd, text, 63, 0);
        text[n > 0 ? n : 0] = 0;
    }
    printf("%s: %s %o links %d [%s] flags %x\n", what, fd >= 0 ? "open" : strerrorname_np(errno), st.st_mode,
           S_ISDIR(st.st_mode) ? -1 : (int)st.st_nlink, text, fd >= 0 ? fcntl(fd, F_GETFL) & ~O_LARGEFILE : 0);
    if (fd >= 0)
        show_name(fd);
    fflush(stdout);
    close(fd);
}

int main(void)
{
    int id = -1, p[2];
    umask(022);
    put_file("f", "contents");
    mkdir("d", 0755);
    mkdir("d/e", 0755);
    put_file("d/e/deep", "deep");
    symlink("f", "s");
    mkfifo("fifo", 0644);
    pipe(p);

    /* the protocol */
    memset(&h, 0, sizeof h);
    T(name_to_handle_at(AT_FDCWD, "f", &h.head, &id, 0));
    printf("size told %d, mount told %d\n", h.head.handle_bytes > 0 && h.head.handle_bytes <= 128, id >= 0);
    unsigned size = h.head.handle_bytes;
    h.head.handle_bytes = size - 1;
    T(name_to_handle_at(AT_FDCWD, "f", &h.head, &id, 0));
    h.head.handle_bytes = size;
    T(name_to_handle_at(AT_FDCWD, "f", &h.head, &id, 0));
    h.head.handle_bytes = 129;
    T(name_to_handle_at(AT_FDCWD, "f", &h.head, &id, 0));
    T(name_to_handle_at(AT_FDCWD, "f", NULL, &id, 0));
    h.head.handle_bytes = 128;
    T(name_to_handle_at(AT_FDCWD, "f", &h.head, NULL, 0));
    T(take(AT_FDCWD, "f", 0x10000, &h));
    T(take(AT_FDCWD, "f", AT_SYMLINK_NOFOLLOW, &h));
    T(take(AT_FDCWD, "none", 0, &h));
    T(take(AT_FDCWD, "", 0, &h));
    T(take(77, "f", 0, &h));
    T(take(AT_FDCWD, "/proc/self/status", 0, &h));
    T(take(AT_FDCWD, "/proc/self/status", AT_HANDLE_FID, &h));
    printf("%d %x\n", h.head.handle_bytes, h.head.handle_type);
    T(take(p[0], "", AT_EMPTY_PATH, &h));
    uint64_t unique = 0;
    h.head.handle_bytes = 128;
    T(name_to_handle_at(AT_FDCWD, "f", &h.head, (int *)&unique, 1));
    T(unique > 0xFFFFFFFF || unique > 0);

    /* which is which */
    T(take(AT_FDCWD, "f", 0, &h));
    T(take(AT_FDCWD, "f", 0, &g));
    printf("same %d\n", same());
    T(take(AT_FDCWD, "f", AT_HANDLE_FID, &g));
    printf("same %d\n", same());
    T(take(AT_FDCWD, "s", 0, &g));
    printf("link itself: same %d\n", same());
    look("link", &g, O_RDONLY);
    look("link, path", &g, O_PATH | O_NOFOLLOW);
    T(take(AT_FDCWD, "s", AT_SYMLINK_FOLLOW, &g));
    printf("followed: same %d\n", same());
    int fd = open("f", O_RDONLY);
    T(take(fd, "", AT_EMPTY_PATH, &g));
    printf("by descriptor: same %d\n", same());
    close(fd);
    link("f", "hard");
    T(take(AT_FDCWD, "hard", 0, &g));
    printf("hard link: same %d\n", same());
    unlink("hard");

    /* opening */
    look("file", &h, O_RDONLY);
    look("file to write", &h, O_RDWR | O_APPEND | O_CLOEXEC);
    look("as directory", &h, O_RDONLY | O_DIRECTORY);
    T(take(AT_FDCWD, "d", 0, &g));
    look("directory", &g, O_RDONLY);
    look("directory to write", &g, O_RDWR);
    fd = open_by_handle_at(AT_FDCWD, &g.head, O_PATH | O_DIRECTORY);
    T(faccessat(fd, "e/deep", F_OK, 0));
    T(faccessat(fd, "../f", F_OK, 0));
    close(fd);
    T(take(AT_FDCWD, "fifo", 0, &g));
    look("fifo", &g, O_RDONLY | O_NONBLOCK);
    look("fifo to write", &g, O_WRONLY | O_NONBLOCK);
    look("truncated", &h, O_RDWR | O_TRUNC);
    put_file("f", "contents");
    look("again", &h, O_RDONLY);

    /* what is refused */
    g = h;
    T(open_by_handle_at(77, &g.head, O_RDONLY));
    T(open_by_handle_at(p[0], &g.head, O_RDONLY));
    T(open_by_handle_at(AT_FDCWD, NULL, O_RDONLY));
    g.head.handle_bytes = 0;
    T(open_by_handle_at(AT_FDCWD, &g.head, O_RDONLY));
    g.head.handle_bytes = 129;
    T(open_by_handle_at(AT_FDCWD, &g.head, O_RDONLY));
    g.head.handle_bytes = 4;
    T(open_by_handle_at(AT_FDCWD, &g.head, O_RDONLY));
    g = h;
    g.head.handle_type = 77;
    T(open_by_handle_at(AT_FDCWD, &g.head, O_RDONLY));
    g = h;
    for (unsigned i = 0; i < g.head.handle_bytes; i++)
        g.room[i] ^= 0x5a;
    T(open_by_handle_at(AT_FDCWD, &g.head, O_RDONLY));
    int place = open("/proc", O_PATH), proc = open("/proc", O_RDONLY);
    T(open_by_handle_at(place, &h.head, O_RDONLY));
    T(open_by_handle_at(proc, &h.head, O_RDONLY));

    /* names that change */
    T(rename("f", "d/moved"));
    look("moved", &h, O_RDONLY);
    T(take(AT_FDCWD, "d/e/deep", 0, &g));
    T(rename("d/e", "far"));
    look("its directory moved", &g, O_RDONLY);
    T(link("d/moved", "again"));
    T(unlink("d/moved"));
    fd = open_by_handle_at(AT_FDCWD, &h.head, O_RDONLY);
    T(fd >= 0);
    close(fd);
    T(open_by_handle_at(AT_FDCWD, &h.head, O_WRONLY) >= 0);

    /* and go */
    fd = open("again", O_RDONLY);
    T(unlink("again"));
    int other = open_by_handle_at(AT_FDCWD, &h.head, O_RDONLY);
    T(other >= 0);
    close(other);
    for (int i = 3; i < 20; i++)
        if (i != proc && i != place && i != p[0] && i != p[1])
            close(i);
    look("gone", &h, O_RDONLY);
    put_file("again", "new");
    look("still gone", &h, O_RDONLY);
    put_file("x", "x");
    put_file("y", "y");
    T(take(AT_FDCWD, "y", 0, &g));
    T(take(AT_FDCWD, "x", 0, &h));
    T(rename("x", "y"));
    look("written over", &g, O_RDONLY);
    look("the new one", &h, O_RDONLY);
    T(take(AT_FDCWD, "d", 0, &h));
    T(rmdir("d"));
    look("directory gone", &h, O_RDONLY);

    /* who may */
    T(take(AT_FDCWD, "y", 0, &h));
    fflush(stdout);
    if (!fork()) {
        T(setresgid(1000, 1000, 1000));
        T(setresuid(1000, 1000, 1000));
        T(take(AT_FDCWD, "/", 0, &g));
        T(open_by_handle_at(AT_FDCWD, &h.head, O_RDONLY));
        T(open_by_handle_at(77, &h.head, O_RDONLY));
        _exit(0);
    }
    wait(NULL);
    return 0;
}
