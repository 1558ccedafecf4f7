#include "unix_common.h"
/* Permissions of a socket's file, rename and links of it, chmod, descriptors kept over exec and fork. */
int main(void) {
    struct sockaddr_un a;
    socklen_t n = named(&a, "s");
    chmod(".", 0755);
    umask(0);
    int l = socket(AF_UNIX, SOCK_STREAM, 0);
    fchmod(l, 0700);
    SHOW(bind(l, (void *)&a, n));
    struct stat st;
    stat("s", &st);
    printf("%o size %d\n", st.st_mode, (int)st.st_size);
    listen(l, 10);
    mode_t modes[] = {0, 0222, 0444, 0777, 0002};
    for (int i = 0; i < 5; i++) {
        chmod("s", modes[i]);
        int c = socket(AF_UNIX, SOCK_STREAM, 0);
        printf("%03o owner: ", modes[i]);
        TRY(connect(c, (void *)&a, n));
        fflush(stdout);
        if (getuid() == 0 && fork() == 0) {
            int d = socket(AF_UNIX, SOCK_STREAM, 0);
            if (setgid(1234) || setuid(1234)) _exit(1);
            printf("%03o other: ", modes[i]);
            TRY(connect(d, (void *)&a, n));
            fflush(stdout);
            _exit(0);
        }
        wait(0);
        close(c);
    }
    chmod("s", 0777);
    SHOW(rename("s", "t"));
    struct sockaddr_un b;
    named(&b, "t");
    int c = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(connect(c, (void *)&b, n));
    SHOW(link("t", "u"));
    named(&b, "u");
    c = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(connect(c, (void *)&b, n));
    n = sizeof b;
    getpeername(c, (void *)&b, &n);
    printf("peer %s\n", b.sun_path);
    symlink("t", "v");
    named(&b, "v");
    c = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(connect(c, (void *)&b, sizeof b));
    int d = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(bind(d, (void *)&b, sizeof b));
    SHOW(truncate("t", 0));
    SHOW(open("t", O_RDONLY));
    SHOW(mknod("w", S_IFSOCK | 0644, 0));
    named(&b, "w");
    c = socket(AF_UNIX, SOCK_STREAM, 0);
    SHOW(connect(c, (void *)&b, sizeof b));
    SHOW(access("t", W_OK));
    return 0;
}
