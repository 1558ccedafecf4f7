#include "file_common.h"

static void show(const char *what, struct stat *s)
{
    printf("%s mode %o size %ld mine %d\n", what, s->st_mode, S_ISDIR(s->st_mode) ? 0L : (long)s->st_size,
           s->st_uid == geteuid());
}

int main(void)
{
    struct stat s, t;
    umask(022);
    put_file("f", "12345");
    mkdir("d", 0750);
    symlink("f", "s");
    symlink("none", "x");
    mkfifo("p", 0640);
    link("f", "g");
    T(stat("f", &s));
    show("f", &s);
    printf("nlink %d\n", (int)s.st_nlink);
    T(lstat("s", &t));
    show("s", &t);
    T(stat("s", &t));
    printf("same %d\n", s.st_ino == t.st_ino && s.st_dev == t.st_dev);
    T(stat("g", &t));
    printf("same %d\n", s.st_ino == t.st_ino);
    T(stat("d", &t));
    show("d", &t);
    T(stat("p", &t));
    show("p", &t);
    T(stat("x", &t));
    T(lstat("x/", &t));
    T(lstat("s/", &t));
    T(stat("f/", &t));
    T(stat("", &t));
    T(stat("f", (void *)8));
    T(stat((void *)8, &t));
    int fd = open("f", O_RDONLY), d = open("d", O_RDONLY);
    T(fstat(fd, &t));
    printf("same %d\n", s.st_ino == t.st_ino);
    T(fstat(-1, &t));
    T(fstatat(d, "../f", &t, 0));
    T(fstatat(fd, "", &t, AT_EMPTY_PATH));
    T(fstatat(fd, "", &t, 0));
    T(fstatat(fd, "x", &t, 0));
    T(fstatat(77, "x", &t, 0));
    T(fstatat(77, "", &t, 0));
    T(fstatat(AT_FDCWD, "", &t, AT_EMPTY_PATH));
    show(".", &t);
    T(fstatat(AT_FDCWD, "s", &t, AT_SYMLINK_NOFOLLOW));
    show("s", &t);
    T(fstatat(AT_FDCWD, "s", &t, 0x40));
    int p[2], k[2];
    pipe(p);
    T(fstat(p[0], &t));
    printf("%o\n", t.st_mode);
    socketpair(AF_UNIX, SOCK_STREAM, 0, k);
    T(fstat(k[0], &t));
    printf("%o\n", t.st_mode);
    T(fstatat(p[0], "x", &t, 0));
    T(stat("/dev/null", &t));
    printf("%o %x\n", t.st_mode & S_IFMT, (int)t.st_rdev);
    return 0;
}
