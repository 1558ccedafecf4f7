/* Nodes of /dev, and the results of open, stat and directories for special files. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define T(x) do { errno = 0; long r_ = (long)(x); printf("%s -> %s\n", #x, r_ < 0 ? strerror(errno) : "ok"); } while (0)

int main(void)
{
    static const char *names[] = { "null", "zero", "full", "random", "urandom", "tty" };
    struct stat st;
    char b[64];
    for (int i = 0; i < 6; i++) {
        char name[32];
        sprintf(name, "/dev/%s", names[i]);
        stat(name, &st);
        printf("%s %o %d:%d\n", name, st.st_mode, major(st.st_rdev), minor(st.st_rdev));
    }
    int fd = open("/dev/null", O_RDWR | O_TRUNC | O_APPEND);
    printf("%zd %zd\n", write(fd, "x", 1), read(fd, b, 1));
    T(ftruncate(fd, 0));
    T(lseek(fd, 100, SEEK_SET));
    fd = open("/dev/full", O_RDWR);
    T(write(fd, "x", 1));
    T(open("/dev/null/x", O_RDONLY));
    T(open("/dev/null", O_DIRECTORY));
    T(open("/dev/null", O_CREAT | O_EXCL));
    T(truncate("/dev/null", 0));
    T(mkfifo("fifo", 0644));
    stat("fifo", &st);
    printf("%o %lld\n", st.st_mode, (long long)st.st_size);
    T(open("fifo", O_WRONLY | O_NONBLOCK));
    T(open("fifo", O_RDONLY | O_NONBLOCK));
    T(open("fifo", O_RDWR));
    T(truncate("fifo", 0));
    T(mknod("sock", S_IFSOCK | 0644, 0));
    T(open("sock", O_RDONLY));
    T(open("sock", O_PATH));
    T(mknod("file", S_IFREG | 0600, 0));
    stat("file", &st);
    printf("%o\n", st.st_mode);
    T(mknod("null", S_IFCHR | 0666, makedev(1, 3)));
    T(mknod("dir", S_IFDIR | 0755, 0));
    T(mknod("bad", 0170000, 0));
    T(link("fifo", "fifo2"));
    T(rename("fifo2", "sock"));
    stat("sock", &st);
    printf("%o %d\n", st.st_mode, (int)st.st_nlink);
    T(access("/dev/null", W_OK));
    T(access("/dev/null", X_OK));
    T(chmod("fifo", 0600));
    T(unlink("fifo"));
    return 0;
}
