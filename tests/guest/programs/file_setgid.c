/* S_ISGID in a directory of another group: files, nodes, directories, with and without the umask. */
#include "file_common.h"
#include <sys/fsuid.h>
#include <grp.h>

static void made(const char *name)
{
    struct stat st;
    if (lstat(name, &st))
        printf("%s: %s\n", name, strerror(errno));
    else
        printf("%s: %o group %d\n", name, st.st_mode, st.st_gid);
    unlink(name);
}

static void make(mode_t mask, int gid)
{
    umask(mask);
    printf("umask %o, group %d\n", mask, gid);
    close(open("g/open", O_CREAT | O_EXCL | O_RDWR, 02777));
    made("g/open");
    close(open("g/open", O_CREAT | O_EXCL | O_RDWR, 02767));
    made("g/open");
    mknod("g/node", S_IFREG | 02777, 0);
    made("g/node");
    mknod("g/fifo", S_IFIFO | 02777, 0);
    made("g/fifo");
    mkdir("g/dir", 02777);
    struct stat st = {0};
    stat("g/dir", &st);
    printf("g/dir: %o group %d\n", st.st_mode, st.st_gid);
    rmdir("g/dir");
    int fd = open("g/later", O_CREAT | O_RDWR, 0777);
    printf("fchmod %d\n", fchmod(fd, 02777));
    close(fd);
    made("g/later");
}

int main(void)
{
    if (geteuid())
        return 0;
    umask(0);
    mkdir("g", 0777);
    chown("g", 65534, 1234);
    chmod("g", 02777);
    setgroups(0, NULL);
    make(0, 0);
    setgid(65534);
    seteuid(65534);
    make(0, 65534);
    make(010, 65534);
    make(0777, 65534);
    seteuid(0);
    setgid(1234);
    seteuid(65534);
    make(0, 1234);
    make(010, 1234);
    return 0;
}
