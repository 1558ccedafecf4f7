#include "file_common.h"

static long o2(int dfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
    struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};
    return syscall(SYS_openat2, dfd, path, &how, sizeof how);
}

int main(void)
{
    mkdir("d", 0755);
    mkdir("d/sub", 0755);
    put_file("d/f", "x");
    put_file("f", "outside");
    symlink("../f", "d/up");
    symlink("/f", "d/abs");
    symlink("f", "d/in");
    symlink("sub/../f", "d/in2");
    int d = open("d", O_DIRECTORY);
    T(o2(d, "f", O_RDONLY, 0, 0));
    T(o2(d, "f", O_RDONLY, 0644, 0));
    T(o2(d, "f", O_RDONLY | (1ull << 40), 0, 0));
    T(o2(d, "f", O_RDONLY, 0, 0x8000));
    T(o2(d, "new", O_CREAT | O_RDWR, 0600, 0));
    T(o2(d, "new2", O_CREAT | O_RDWR, 010600, 0));
    T(o2(d, "../f", O_RDONLY, 0, RESOLVE_BENEATH));
    T(o2(d, "sub/../f", O_RDONLY, 0, RESOLVE_BENEATH));
    T(o2(d, "up", O_RDONLY, 0, RESOLVE_BENEATH));
    T(o2(d, "abs", O_RDONLY, 0, RESOLVE_BENEATH));
    T(o2(d, "/f", O_RDONLY, 0, RESOLVE_BENEATH));
    T(o2(d, "in", O_RDONLY, 0, RESOLVE_BENEATH));
    T(o2(d, "in2", O_RDONLY, 0, RESOLVE_BENEATH));
    T(o2(d, "in", O_RDONLY, 0, RESOLVE_NO_SYMLINKS));
    T(o2(d, "f", O_RDONLY, 0, RESOLVE_NO_SYMLINKS));
    T(o2(d, "/f", O_RDONLY, 0, RESOLVE_IN_ROOT));
    T(o2(d, "../f", O_RDONLY, 0, RESOLVE_IN_ROOT));
    T(o2(d, "abs", O_RDONLY, 0, RESOLVE_IN_ROOT));
    T(o2(d, "up", O_RDONLY, 0, RESOLVE_IN_ROOT));
    T(o2(d, "up", O_RDONLY, 0, RESOLVE_IN_ROOT | RESOLVE_BENEATH));
    T(o2(d, "up", O_RDONLY, 0, RESOLVE_NO_XDEV));
    T(o2(AT_FDCWD, "/proc/self/fd/3", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS));
    T(o2(AT_FDCWD, "/proc/self/exe", O_RDONLY, 0, RESOLVE_NO_MAGICLINKS));
    T(o2(d, "f", O_PATH | O_RDWR, 0, 0));
    T(o2(d, "f", O_PATH | O_TRUNC, 0, 0));
    struct { struct open_how how; uint64_t more; } big = {{.flags = O_RDONLY}, 0};
    T(syscall(SYS_openat2, d, "f", &big, sizeof big));
    big.more = 1;
    T(syscall(SYS_openat2, d, "f", &big, sizeof big));
    T(syscall(SYS_openat2, d, "f", &big, 8));
    T(syscall(SYS_openat2, d, "f", &big, 5000));
    T(syscall(SYS_openat2, d, "f", 8, sizeof big.how));
    return 0;
}
