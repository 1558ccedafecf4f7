#include "file_common.h"

int main(void)
{
    put_file("f", "x");
    int fd = open("f", O_RDWR), ro = open("f", O_RDONLY), d = open(".", O_RDONLY), p[2], s[2];
    pipe(p);
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    T(fsync(fd));
    T(fdatasync(fd));
    T(fsync(ro));
    T(fsync(d));
    T(fsync(p[0]));
    T(fdatasync(p[1]));
    T(fsync(s[0]));
    T(fsync(-1));
    T(syncfs(fd));
    T(syncfs(-1));
    T(sync_file_range(fd, 0, 10, SYNC_FILE_RANGE_WRITE));
    T(sync_file_range(fd, 0, 0, 0));
    T(sync_file_range(fd, -1, 10, 0));
    T(sync_file_range(fd, 0, 10, 0x100));
    T(sync_file_range(p[0], 0, 10, 0));
    T(sync_file_range(-1, 0, 10, 0));
    T(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
    T(posix_fadvise(fd, 0, 0, 77));
    T(posix_fadvise(fd, 0, -1, POSIX_FADV_NORMAL));
    T(posix_fadvise(p[0], 0, 0, POSIX_FADV_NORMAL));
    T(posix_fadvise(-1, 0, 0, POSIX_FADV_NORMAL));
    T(readahead(fd, 0, 100));
    T(readahead(p[0], 0, 100));
    T(readahead(d, 0, 100));
    T(readahead(-1, 0, 100));
    sync();
    return 0;
}
