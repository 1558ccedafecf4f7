#include "file_common.h"

int main(void)
{
    char b[20];
    struct stat st;
    put_file("f", "still here");
    mkdir("d", 0755);
    symlink("f", "s");
    int fd = open("f", O_RDWR);
    T(unlink("d"));
    T(unlink("none"));
    T(unlink(""));
    T(unlink("f/"));
    T(unlink("f/x"));
    T(unlink("."));
    T(unlink("d/"));
    T(unlink("s"));
    T(access("f", F_OK));
    T(unlink("f"));
    T(access("f", F_OK));
    T(fstat(fd, &st));
    printf("nlink %d size %ld\n", (int)st.st_nlink, (long)st.st_size);
    T(read(fd, b, 20));
    T(write(fd, "more", 4));
    T(lseek(fd, 0, SEEK_END));
    put_file("f", "new");
    struct stat now;
    stat("f", &now);
    printf("other %d\n", now.st_ino != st.st_ino);
    T(pread(fd, b, 20, 0));
    printf("%.10s\n", b);
    int r = readlink("/proc/self/fd/3", b, 0);
    T(r);
    T(ftruncate(fd, 0));
    T(close(fd));
    show_file("f");
    return 0;
}
