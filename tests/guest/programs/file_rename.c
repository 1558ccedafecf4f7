#include "file_common.h"

int main(void)
{
    put_file("a", "a");
    put_file("b", "b");
    mkdir("d", 0755);
    mkdir("e", 0755);
    mkdir("d/sub", 0755);
    put_file("d/sub/x", "x");
    symlink("a", "s");
    T(rename("a", "b"));
    T(access("a", F_OK));
    show_file("b");
    T(rename("none", "b"));
    T(rename("b", "d"));
    T(rename("d", "b"));
    T(rename("d", "e"));
    T(access("e/sub/x", F_OK));
    T(rename("e", "e/sub/y"));
    T(rename("e/sub", "e"));
    mkdir("full", 0755);
    put_file("full/x", "x");
    T(rename("e", "full"));
    T(rename("full", "."));
    T(rename(".", "full"));
    T(rename("full/..", "z"));
    T(rename("b", "b"));
    T(rename("b", "c/"));
    T(rename("e", "g/"));
    T(rename("b/", "c"));
    T(rename("b", ""));
    T(rename("b", "none/c"));
    link("b", "hard");
    T(rename("b", "hard"));
    T(access("b", F_OK));
    T(rename("s", "s2"));
    char t[10];
    T(readlink("s2", t, 10));
    int d = open("g", O_RDONLY);
    T(renameat(AT_FDCWD, "b", d, "moved"));
    T(access("g/moved", F_OK));
    T(renameat(d, "moved", AT_FDCWD, "back"));
    T(renameat(99, "moved", AT_FDCWD, "back"));
    int fd = open("back", O_RDONLY);
    T(rename("hard", "back"));
    put_file("other", "other");
    T(rename("other", "back"));
    T(read(fd, t, 10));
    show_file("back");
    return 0;
}
