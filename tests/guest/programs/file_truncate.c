#include "file_common.h"

static long size(const char *name)
{
    struct stat st;
    return stat(name, &st) ? -1 : (long)st.st_size;
}

int main(void)
{
    put_file("f", "0123456789");
    mkdir("d", 0755);
    symlink("f", "s");
    mkfifo("p", 0600);
    T(truncate("f", 4));
    T(size("f"));
    T(truncate("f", 8));
    T(size("f"));
    show_file("f");
    T(truncate("s", 2));
    T(size("f"));
    T(truncate("f", -1));
    T(truncate("d", 0));
    T(truncate("p", 0));
    T(truncate("none", 0));
    T(truncate("f/x", 0));
    T(truncate("", 0));
    int fd = open("f", O_RDWR), ro = open("f", O_RDONLY);
    T(ftruncate(fd, 6));
    T(ftruncate(fd, -1));
    T(ftruncate(ro, 1));
    T(ftruncate(-1, 1));
    T(ftruncate(open("d", O_RDONLY), 1));
    int p[2];
    pipe(p);
    T(ftruncate(p[1], 1));
    T(size("f"));
    T(lseek(fd, 0, SEEK_END));
    T(ftruncate(fd, 0));
    T(write(fd, "z", 1));
    T(size("f"));
    T(ftruncate(fd, 1L << 32));
    T(size("f"));
    return 0;
}
