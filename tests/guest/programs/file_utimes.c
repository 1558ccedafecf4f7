#include "file_common.h"

static void show(const char *f)
{
    struct stat st;
    lstat(f, &st);
    printf("%ld.%09ld %ld.%09ld\n", (long)st.st_atim.tv_sec, st.st_atim.tv_nsec, (long)st.st_mtim.tv_sec,
           st.st_mtim.tv_nsec);
}

int main(void)
{
    put_file("f", "x");
    symlink("f", "s");
    int fd = open("f", O_RDONLY);
    struct timespec ts[2] = {{100, 200}, {300, 400}};
    T(utimensat(AT_FDCWD, "f", ts, 0));
    show("f");
    ts[0].tv_nsec = UTIME_OMIT;
    ts[1].tv_sec = 500;
    T(utimensat(AT_FDCWD, "s", ts, 0));
    show("f");
    ts[0].tv_nsec = 7;
    T(utimensat(AT_FDCWD, "s", ts, AT_SYMLINK_NOFOLLOW));
    show("f");
    ts[1].tv_nsec = UTIME_OMIT;
    T(futimens(fd, ts));
    show("f");
    ts[0].tv_nsec = UTIME_OMIT;
    T(utimensat(AT_FDCWD, "none", ts, 0));
    ts[1].tv_nsec = UTIME_NOW;
    T(utimensat(AT_FDCWD, "f", ts, 0));
    struct stat st;
    stat("f", &st);
    printf("now %d\n", st.st_mtim.tv_sec > 1000000);
    ts[0].tv_nsec = 1000000000;
    T(utimensat(AT_FDCWD, "f", ts, 0));
    ts[0].tv_nsec = -1;
    T(utimensat(AT_FDCWD, "f", ts, 0));
    T(utimensat(AT_FDCWD, "f", 0, 0));
    T(utimensat(AT_FDCWD, "f", 0, 0x40));
    T(utimensat(99, "f", 0, 0));
    T(utimensat(99, "none", 0, 0));
    T(syscall(SYS_utimensat, AT_FDCWD, 0, 0, 0));
    T(syscall(SYS_utimensat, fd, 0, 0, 0));
    T(syscall(SYS_utimensat, fd, 0, 0, AT_SYMLINK_NOFOLLOW));
    T(syscall(SYS_utimensat, fd, "", 0, AT_EMPTY_PATH));
    struct timeval tv[2] = {{10, 20}, {30, 40}};
    T(utimes("f", tv));
    show("f");
    tv[0].tv_usec = 1000000;
    T(utimes("f", tv));
    tv[0].tv_usec = 1;
    T(syscall(SYS_futimesat, AT_FDCWD, "f", tv));
    show("f");
    T(syscall(SYS_futimesat, fd, 0, tv));
    struct utimbuf ub = {11, 22};
    T(utime("f", &ub));
    show("f");
    T(utime("none", &ub));
    T(syscall(SYS_utimes, "f", 8));
    ts[0] = (struct timespec){-5, 0};
    ts[1] = (struct timespec){4294967296L, 5};
    T(utimensat(AT_FDCWD, "f", ts, 0));
    stat("f", &st);
    printf("%ld\n", (long)st.st_atim.tv_sec);
    return 0;
}
