#include "file_common.h"

static void kind(const char *f)
{
    struct stat st;
    if (lstat(f, &st) == 0)
        printf("%s %o\n", f, st.st_mode);
}

int main(void)
{
    umask(022);
    T(mknod("p", S_IFIFO | 0666, 0));
    kind("p");
    T(mknod("p", S_IFIFO | 0666, 0));
    T(mknod("s", S_IFSOCK | 0666, 0));
    kind("s");
    T(open("s", O_RDONLY));
    T(mknod("r", 0644, 0));
    kind("r");
    T(mknod("r2", S_IFREG | 0600, 0));
    kind("r2");
    T(mknod("d", S_IFDIR | 0755, 0));
    T(mknod("l", S_IFLNK | 0755, 0));
    T(mknod("x", 0150000 | 0755, 0));
    T(mknod("none/x", S_IFIFO | 0644, 0));
    T(mknod("q/", S_IFIFO | 0644, 0));
    T(mkfifo("", 0644));
    int d = open(".", O_RDONLY);
    T(mknodat(d, "at", S_IFIFO | 0600, 0));
    T(mknodat(99, "at2", S_IFIFO | 0600, 0));
    T(open("p", O_WRONLY | O_NONBLOCK));
    T(open("p", O_RDONLY | O_NONBLOCK));
    return 0;
}
