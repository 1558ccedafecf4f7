#include "file_common.h"

int main(void)
{
    put_file("f", "data");
    mkdir("d", 0755);
    put_file("d/g", "inner");
    symlink("f", "s");
    int fd = open("f", O_PATH);
    char b[10];
    struct stat st;
    T(fd);
    T(read(fd, b, 1));
    T(write(fd, b, 1));
    T(pread(fd, b, 1, 0));
    T(lseek(fd, 0, SEEK_SET));
    T(ftruncate(fd, 0));
    T(fsync(fd));
    T(fchmod(fd, 0600));
    T(fchown(fd, -1, -1));
    T(ioctl(fd, FIONREAD, b));
    T(mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0);
    T(fcntl(fd, F_GETFL) & O_PATH ? 1 : 0);
    T(fcntl(fd, F_SETFL, O_NONBLOCK));
    T(fcntl(fd, F_GETFD));
    T(fstat(fd, &st));
    printf("size %ld\n", (long)st.st_size);
    T(dup(fd));
    T(flock(fd, LOCK_SH));
    T(fgetxattr(fd, "user.x", b, 1));
    int d = open("d", O_PATH | O_DIRECTORY);
    T(openat(d, "g", O_RDONLY));
    T(fchdir(d));
    T(access("g", R_OK));
    T(chdir(".."));
    int s = open("s", O_PATH | O_NOFOLLOW);
    T(s);
    T(readlinkat(s, "", b, sizeof b));
    T(readlinkat(fd, "", b, sizeof b));
    T(fstat(s, &st));
    printf("%o\n", st.st_mode & S_IFMT);
    DIR *dir = fdopendir(d);
    T(dir ? readdir(dir) != 0 : -1);
    return 0;
}
