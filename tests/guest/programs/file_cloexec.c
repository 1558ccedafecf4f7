#include "file_common.h"

int main(int argc, char **argv)
{
    if (argc > 1) {
        for (int fd = 3; fd < 12; fd++)
            printf("%d: %s\n", fd, fcntl(fd, F_GETFD) < 0 ? "closed" : "open");
        return 0;
    }
    put_file("f", "x");
    open("f", O_RDONLY);
    open("f", O_RDONLY | O_CLOEXEC);
    int a = open("f", O_RDONLY), b = open("f", O_RDONLY | O_CLOEXEC);
    T(fcntl(a, F_SETFD, FD_CLOEXEC));
    T(fcntl(b, F_SETFD, 0));
    T(fcntl(a, F_GETFD));
    T(fcntl(b, F_GETFD));
    T(dup(a));
    T(fcntl(7, F_GETFD));
    T(fcntl(a, F_DUPFD_CLOEXEC, 8));
    T(ioctl(3, FIOCLEX));
    T(fcntl(3, F_GETFD));
    T(ioctl(4, FIONCLEX));
    T(fcntl(4, F_GETFD));
    fflush(stdout);
    execl("/proc/self/exe", "x", "again", NULL);
    return 1;
}
