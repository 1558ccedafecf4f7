#include "file_common.h"

int main(void)
{
    put_file("f", "x");
    put_file("x", "x");
    chmod("x", 0755);
    symlink("f", "s");
    symlink("none", "dangling");
    mkdir("d", 0755);
    T(access("f", F_OK));
    T(access("f", R_OK | W_OK));
    T(access("f", X_OK));
    T(access("x", X_OK));
    T(access("d", R_OK | W_OK | X_OK));
    T(access("f", 8));
    T(access("none", F_OK));
    T(access("dangling", F_OK));
    T(access("f/y", F_OK));
    T(access("", F_OK));
    T(access((char *)8, F_OK));
    T(syscall(SYS_faccessat, AT_FDCWD, "s", R_OK));
    T(syscall(SYS_faccessat, 99, "s", R_OK));
    T(syscall(SYS_faccessat2, AT_FDCWD, "dangling", F_OK, AT_SYMLINK_NOFOLLOW));
    T(syscall(SYS_faccessat2, AT_FDCWD, "f", R_OK, AT_EACCESS));
    T(syscall(SYS_faccessat2, AT_FDCWD, "f", X_OK, AT_EACCESS));
    T(syscall(SYS_faccessat2, AT_FDCWD, "f", R_OK, 0x10));
    int fd = open("x", O_RDONLY), d = open("d", O_RDONLY);
    T(syscall(SYS_faccessat2, fd, "", X_OK, AT_EMPTY_PATH));
    T(syscall(SYS_faccessat2, fd, "", X_OK, 0));
    T(syscall(SYS_faccessat2, d, "../f", R_OK, 0));
    T(syscall(SYS_faccessat2, fd, "f", R_OK, 0));
    return 0;
}
