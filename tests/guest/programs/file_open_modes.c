#include "file_common.h"

static void mode(const char *name)
{
    struct stat st;
    if (stat(name, &st) == 0)
        printf("%s %o\n", name, st.st_mode);
}

int main(void)
{
    umask(022);
    T(creat("a", 0666));
    mode("a");
    umask(077);
    T(open("b", O_CREAT | O_WRONLY, 0777));
    mode("b");
    printf("umask %o\n", umask(0));
    T(open("c", O_CREAT | O_WRONLY, 0));
    mode("c");
    T(open("d", O_CREAT | O_WRONLY, 04755));
    mode("d");
    T(mkdir("e", 01777));
    mode("e");
    T(mkdir("e2", 06777));
    mode("e2");
    umask(027);
    T(mkfifo("f", 0666));
    mode("f");
    T(mknod("g", S_IFREG | 0777, 0));
    mode("g");
    printf("umask %o\n", umask(01000 | 022));
    printf("umask %o\n", umask(0));
    int fd = open("a", 3);
    char c;
    T(read(fd, &c, 1));
    T(write(fd, &c, 1));
    printf("accmode %d\n", fcntl(fd, F_GETFL) & O_ACCMODE);
    return 0;
}
