/* The program's own file, which lies in a lower layer: busy, renamed, linked, removed, still running. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *link_of(const char *name)
{
    static char b[500];
    ssize_t n = readlink(name, b, sizeof b - 1);
    b[n < 0 ? 0 : n] = 0;
    char *slash = strrchr(b, '/');
    return slash ? slash + 1 : b;
}

int main(int argc, char **argv)
{
    struct stat a, b;
    if (argc > 1) {
        printf("child %s\n", argv[1]);
        return 7;
    }
    stat("vfs_self", &a);
    printf("write: %d", open("vfs_self", O_RDWR));
    printf(" %s\n", strerror(errno));
    printf("exe %s\n", link_of("/proc/self/exe"));
    printf("rename %d\n", rename("vfs_self", "other"));
    printf("exe %s\n", link_of("/proc/self/exe"));
    stat("other", &b);
    printf("same %d\n", a.st_ino == b.st_ino && a.st_dev == b.st_dev && a.st_size == b.st_size);
    printf("link %d\n", link("other", "hard"));
    stat("hard", &b);
    printf("links %d same %d\n", (int)b.st_nlink, a.st_ino == b.st_ino);
    printf("chmod %d\n", chmod("hard", 0700));
    stat("other", &b);
    printf("mode %o\n", b.st_mode & 07777);
    fflush(stdout);
    int status = 0;
    if (fork() == 0) {
        execl("./hard", "hard", "of the link", (char *)0);
        _exit(99);
    }
    wait(&status);
    printf("status %d\n", WEXITSTATUS(status));
    printf("unlink %d %d\n", unlink("hard"), unlink("other"));
    printf("exe %s\n", link_of("/proc/self/exe"));
    int fd = open("/proc/self/exe", O_RDONLY);
    char magic[4];
    printf("read %zd %d\n", read(fd, magic, 4), memcmp(magic, "\177ELF", 4));
    fflush(stdout);
    if (fork() == 0) {
        execl("/proc/self/exe", "gone", "of the removed file", (char *)0);
        _exit(99);
    }
    wait(&status);
    printf("status %d\n", WEXITSTATUS(status));
    return 0;
}
