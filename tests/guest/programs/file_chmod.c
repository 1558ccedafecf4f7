#include "file_common.h"

static void mode(const char *f)
{
    struct stat st;
    if (lstat(f, &st) == 0)
        printf("%s %o\n", f, st.st_mode & 07777);
}

int main(void)
{
    put_file("f", "x");
    mkdir("d", 0755);
    symlink("f", "s");
    T(chmod("f", 0));
    mode("f");
    T(chmod("f", 04711));
    mode("f");
    T(chmod("s", 0640));
    mode("f");
    T(chmod("d", 01777));
    mode("d");
    T(chmod("f", 0177777));
    T(chmod("none", 0));
    T(chmod("f/x", 0));
    T(chmod("", 0));
    int fd = open("f", O_RDWR);
    T(fchmod(fd, 0600));
    mode("f");
    T(fchmod(-1, 0600));
    T(syscall(SYS_fchmodat, AT_FDCWD, "f", 0604));
    mode("f");
    T(syscall(SYS_fchmodat, 99, "f", 0604));
    T(fchmod(open("d", O_RDONLY), 0700));
    mode("d");
    int p[2];
    pipe(p);
    T(fchmod(p[0], 0666));
    struct stat st;
    fstat(p[1], &st);
    printf("%o\n", st.st_mode);
    chmod("f", 06777);
    mode("f");
    T(write(fd, "y", 1));
    struct stat before;
    stat("f", &before);
    T(chown("f", -1, -1));
    mode("f");
    T(chown("s", geteuid(), getegid()));
    T(lchown("s", -1, -1));
    T(fchown(fd, -1, -1));
    T(fchownat(AT_FDCWD, "s", -1, -1, AT_SYMLINK_NOFOLLOW));
    T(fchownat(fd, "", -1, -1, AT_EMPTY_PATH));
    T(fchownat(fd, "", -1, -1, 0));
    T(fchownat(fd, "f", -1, -1, 0x20));
    T(chown("none", -1, -1));
    T(lchown("none", -1, -1));
    return 0;
}
