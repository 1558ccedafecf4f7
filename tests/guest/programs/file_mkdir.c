#include "file_common.h"

int main(void)
{
    put_file("f", "x");
    symlink("d", "s");
    symlink("nowhere", "x");
    T(mkdir("d", 0755));
    T(mkdir("d", 0755));
    T(mkdir("d/", 0755));
    T(mkdir("e/", 0755));
    T(mkdir("s", 0755));
    T(mkdir("x", 0755));
    T(mkdir("f", 0755));
    T(mkdir("f/g", 0755));
    T(mkdir("n/g", 0755));
    T(mkdir("", 0755));
    T(mkdir(".", 0755));
    T(mkdir("/", 0755));
    T(mkdir("d/..", 0755));
    T(mkdir("d/sub", 0755));
    T(rmdir("d"));
    T(rmdir("d/sub/."));
    T(rmdir("d/sub/.."));
    T(rmdir("."));
    T(rmdir("/"));
    T(rmdir("f"));
    T(rmdir("s"));
    T(rmdir("none"));
    T(rmdir("d/sub/"));
    T(rmdir("d"));
    int d = open("e", O_RDONLY);
    T(mkdirat(d, "in", 0700));
    T(unlinkat(d, "in", 0));
    T(unlinkat(d, "in", AT_REMOVEDIR));
    T(unlinkat(d, "in", 0x10));
    T(rmdir("e"));
    T(mkdirat(d, "in", 0700));
    T(openat(d, "x", O_CREAT | O_RDWR, 0600));
    struct stat st;
    T(fstat(d, &st));
    printf("nlink %d\n", (int)st.st_nlink);
    T(mkdirat(99, "x", 0700));
    return 0;
}
