#include "file_common.h"

static int cmp(const void *a, const void *b)
{
    return strcmp(*(char **)a, *(char **)b);
}

int main(void)
{
    static char big[70000];
    char b[256];
    put_file("f", "x");
    mkdir("d", 0755);
    symlink("f", "s");
    int fd = open("f", O_RDWR);
    T(setxattr("f", "user.one", "1", 1, 0));
    T(setxattr("f", "user.two", "22", 2, XATTR_CREATE));
    T(setxattr("f", "user.two", "22", 2, XATTR_CREATE));
    T(setxattr("f", "user.two", "222", 3, XATTR_REPLACE));
    T(setxattr("f", "user.none", "222", 3, XATTR_REPLACE));
    T(setxattr("f", "user.x", "222", 3, 4));
    T(getxattr("f", "user.two", b, sizeof b));
    T(getxattr("s", "user.two", b, 0));
    T(getxattr("f", "user.two", b, 2));
    T(getxattr("f", "user.none", b, 2));
    T(getxattr("f", "", b, 2));
    T(getxattr("f", "nothing", b, 2));
    T(getxattr("none", "user.x", b, 2));
    T(lgetxattr("s", "user.two", b, 2));
    T(lsetxattr("s", "user.two", b, 2, 0));
    T(fgetxattr(fd, "user.one", b, sizeof b));
    T(fsetxattr(fd, "user.three", "", 0, 0));
    T(setxattr("d", "user.dir", "yes", 3, 0));
    T(getxattr("d", "user.dir", b, 3));
    ssize_t n = listxattr("f", b, sizeof b);
    char *names[20];
    int count = 0;
    for (char *at = b; at < b + n; at += strlen(at) + 1)
        if (strncmp(at, "user.", 5) == 0)
            names[count++] = at;
    qsort(names, count, sizeof *names, cmp);
    for (int i = 0; i < count; i++)
        puts(names[i]);
    T(listxattr("f", b, 3));
    T(removexattr("f", "user.one"));
    T(removexattr("f", "user.one"));
    T(fremovexattr(fd, "user.two"));
    T(lremovexattr("s", "user.two"));
    memset(big, 'n', 300);
    memcpy(big, "user.", 5);
    T(setxattr("f", big, "", 0, 0));
    T(setxattr("f", "user.big", big, 65537, 0));
    T(setxattr("f", "user.x", (void *)8, 3, 0));
    T(getxattr("f", (char *)8, b, 3));
    T(fgetxattr(-1, "user.x", b, 3));
    T(setxattr("f", "user.", "x", 1, 0));
    return 0;
}
