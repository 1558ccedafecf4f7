/* chmod, chown, times, truncation and attributes of files that have lost their name, or have another one. */
#include "file_common.h"
#include <sys/xattr.h>

static void show(const char *what, int fd)
{
    struct stat st;
    fstat(fd, &st);
    printf("%s: %o %d:%d links %d size %ld%s\n", what, st.st_mode, st.st_uid, st.st_gid, (int)st.st_nlink,
           (long)st.st_size, st.st_mtim.tv_sec == 22 ? " with its new time" : "");
}

static void change(const char *what, int fd)
{
    struct timespec times[2] = {{11, 0}, {22, 33}};
    show(what, fd);
    printf("fchmod %d\n", fchmod(fd, 0640));
    show(what, fd);
    printf("futimens %d\n", futimens(fd, times));
    show(what, fd);
    if (geteuid() == 0) {
        printf("fchown %d\n", fchown(fd, 1234, 4321));
        show(what, fd);
        printf("fchown %d\n", fchown(fd, 0, 0));
    }
}

int main(void)
{
    char buf[16];
    umask(0);
    int fd = open("a", O_RDWR | O_CREAT | O_TRUNC, 0600);
    write(fd, "contents", 8);
    unlink("a");
    change("unlinked", fd);
    printf("ftruncate %d\n", ftruncate(fd, 3));
    printf("fsetxattr %d\n", fsetxattr(fd, "user.x", "1", 1, 0));
    printf("fgetxattr %d\n", (int)fgetxattr(fd, "user.x", buf, sizeof buf));
    show("unlinked", fd);

    int only_read = open("b", O_RDONLY | O_CREAT, 0644);
    write(open("c", O_RDWR | O_CREAT, 0604), "c", 1);
    rename("c", "b");
    change("replaced", only_read);
    struct stat st;
    stat("b", &st);
    printf("the other: %o %d size %ld\n", st.st_mode, st.st_uid, (long)st.st_size);
    rename("b", "d");
    int moved = open("d", O_RDONLY);
    rename("d", "e");
    close(open("d", O_WRONLY | O_CREAT, 0666));
    change("moved", moved);
    stat("d", &st);
    printf("the other: %o %d\n", st.st_mode, st.st_uid);

    mkdir("dir", 0755);
    int dir = open("dir", O_RDONLY | O_DIRECTORY);
    rmdir("dir");
    printf("fchmod %d\n", fchmod(dir, 0700));
    fstat(dir, &st);
    printf("directory: %o links %d\n", st.st_mode, (int)st.st_nlink);
    return 0;
}
