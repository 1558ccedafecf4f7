#include "file_common.h"

static int n(const char *f)
{
    struct stat st;
    return lstat(f, &st) ? -1 : (int)st.st_nlink;
}

int main(void)
{
    put_file("f", "x");
    mkdir("d", 0755);
    symlink("f", "s");
    T(link("f", "g"));
    T(n("f"));
    T(link("f", "g"));
    T(link("d", "e"));
    T(link("none", "e"));
    T(link("f", "none/e"));
    T(link("f", "f/e"));
    T(link("f", ""));
    T(link("f", "h/"));
    T(link("s", "t"));
    T(n("s"));
    T(n("f"));
    T(linkat(AT_FDCWD, "s", AT_FDCWD, "u", AT_SYMLINK_FOLLOW));
    T(n("f"));
    T(linkat(AT_FDCWD, "f", AT_FDCWD, "v", 0x10));
    T(linkat(99, "f", AT_FDCWD, "v", 0));
    int d = open("d", O_RDONLY);
    T(linkat(AT_FDCWD, "f", d, "in", 0));
    T(access("d/in", F_OK));
    T(unlink("f"));
    T(n("g"));
    show_file("d/in");
    T(link("f", "w"));
    T(link("/dev/null", "null"));
    return 0;
}
