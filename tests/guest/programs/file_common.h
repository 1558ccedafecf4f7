/* Prints the text of a call with its result, or the name of its errno: comparable between kernels. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <utime.h>

#define T(e)                                                          \
    do {                                                              \
        errno = 0;                                                    \
        long r_ = (long)(e);                                          \
        if (r_ == -1)                                                 \
            printf("%s -> %s\n", #e, strerrorname_np(errno));         \
        else                                                          \
            printf("%s -> %ld\n", #e, r_);                            \
        fflush(stdout);                                               \
    } while (0)

static inline void put_file(const char *name, const char *text)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        exit(99);
    close(fd);
}

static inline void show_file(const char *name)
{
    char b[4096];
    int fd = open(name, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, b, sizeof b);
    printf("%s = %zd [%.*s]\n", name, n, n > 0 ? (int)n : 0, b);
    if (fd >= 0)
        close(fd);
}
