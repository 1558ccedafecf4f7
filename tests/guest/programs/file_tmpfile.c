#include "file_common.h"

int main(void)
{
    char path[64];
    struct stat st;
    int fd = open(".", O_TMPFILE | O_RDWR, 0640);
    T(fd);
    T(write(fd, "nameless", 8));
    fstat(fd, &st);
    printf("%o %d\n", st.st_mode, (int)st.st_nlink);
    sprintf(path, "/proc/self/fd/%d", fd);
    T(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    show_file("named");
    fstat(fd, &st);
    printf("%d\n", (int)st.st_nlink);
    int ex = open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600);
    T(ex);
    sprintf(path, "/proc/self/fd/%d", ex);
    T(linkat(AT_FDCWD, path, AT_FDCWD, "never", AT_SYMLINK_FOLLOW));
    T(open(".", O_TMPFILE | O_RDONLY, 0600));
    T(open("named", O_TMPFILE | O_RDWR, 0600));
    T(open("none", O_TMPFILE | O_RDWR, 0600));
    T(open(".", O_TMPFILE | O_RDWR | O_CREAT, 0600));
    T(access("never", F_OK));
    return 0;
}
