#include "file_common.h"

int main(void)
{
    put_file("f", "0123456789");
    char b[10];
    int fd = open("f", O_RDWR);
    T(dup(fd));
    T(dup(-1));
    T(dup2(fd, 10));
    T(dup2(fd, fd));
    T(dup2(-1, 5));
    T(dup2(50, 50));
    T(dup2(fd, -1));
    T(dup3(fd, 11, O_CLOEXEC));
    T(fcntl(11, F_GETFD));
    T(dup3(fd, fd, 0));
    T(dup3(fd, 12, O_NONBLOCK));
    T(dup3(60, 12, 0));
    T(fcntl(fd, F_DUPFD, 20));
    T(fcntl(fd, F_DUPFD, 20));
    T(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    T(fcntl(5, F_GETFD));
    T(fcntl(fd, F_DUPFD, -1));
    T(fcntl(fd, F_DUPFD, 1 << 30));
    T(lseek(10, 4, SEEK_SET));
    T(read(fd, b, 2));
    T(lseek(20, 0, SEEK_CUR));
    T(fcntl(10, F_SETFL, O_APPEND));
    T(fcntl(fd, F_GETFL) & O_APPEND ? 1 : 0);
    T(close(fd));
    T(close(fd));
    T(read(10, b, 1));
    T(open("f", O_RDONLY));
    T(dup2(10, 11));
    T(fcntl(11, F_GETFD));
    T(close(-1));
    return 0;
}
