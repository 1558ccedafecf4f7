#include "file_common.h"

int main(void)
{
    char b[100];
    put_file("f", "x");
    T(symlink("f", "s"));
    T(symlink("f", "s"));
    T(symlink("", "e"));
    T(symlink("f", ""));
    T(symlink("f", "none/s"));
    T(symlink("f", "f/s"));
    T(symlink("f", "t/"));
    T(readlink("s", b, 100));
    T(readlink("s", b, 0));
    T(readlink("s", b, -1));
    T(readlink("f", b, 100));
    T(readlink(".", b, 100));
    T(readlink("none", b, 100));
    T(readlink("", b, 100));
    T(readlink("s", (char *)8, 100));
    T(symlink("a/very/long/target/that/does/not/exist", "l"));
    T(readlink("l", b, 6));
    printf("%.6s\n", b);
    static char big[4200];
    memset(big, 'a', 4199);
    T(symlink(big, "big"));
    big[4095] = 0;
    T(symlink(big, "big"));
    T(readlink("big", big, 4200));
    T(open("big", O_RDONLY));
    int d = open(".", O_RDONLY);
    T(symlinkat("f", d, "at"));
    T(readlinkat(d, "at", b, 100));
    T(symlinkat("f", 99, "at2"));
    T(readlinkat(99, "at", b, 100));
    /* Forty links are followed, not more. */
    symlink("f", "c0");
    for (int i = 1; i <= 45; i++) {
        char from[10], to[10];
        sprintf(to, "c%d", i - 1);
        sprintf(from, "c%d", i);
        symlink(to, from);
    }
    T(access("c39", F_OK));
    T(access("c40", F_OK));
    struct stat st;
    lstat("s", &st);
    printf("%o %ld\n", st.st_mode, (long)st.st_size);
    struct timespec times[2] = {{1000, 0}, {2000, 0}};
    symlink("nowhere", "read");
    for (int how = 0; how < 4; how++) {
        utimensat(AT_FDCWD, "read", times, AT_SYMLINK_NOFOLLOW);
        if (how == 1)
            readlink("read", b, 10);
        if (how == 2)
            stat("read", &st);
        if (how == 3)
            close(open("read", O_PATH | O_NOFOLLOW));
        lstat("read", &st);
        printf("%d: atime %s\n", how, st.st_atim.tv_sec == 1000 ? "kept" : "new");
    }
    return 0;
}
