#include "file_common.h"

int main(void)
{
    char b[20] = {0};
    put_file("f", "0123456789");
    int fd = open("f", O_RDWR), other = open("f", O_RDWR);
    fflush(stdout);
    if (fork() == 0) {
        read(fd, b, 4);
        lseek(other, 8, SEEK_SET);
        close(fd);
        exit(0);
    }
    wait(0);
    T(lseek(fd, 0, SEEK_CUR));
    T(lseek(other, 0, SEEK_CUR));
    T(write(fd, "XY", 2));
    T(read(other, b, 20));
    printf("%s\n", b);
    int app = open("f", O_WRONLY | O_APPEND);
    fflush(stdout);
    for (int i = 0; i < 4; i++)
        if (fork() == 0) {
            for (int k = 0; k < 25; k++)
                write(app, "line\n", 5);
            exit(0);
        }
    while (wait(0) > 0)
        ;
    T(lseek(fd, 0, SEEK_END));
    int again = open("/proc/self/fd/3", O_RDONLY);
    T(lseek(again, 0, SEEK_CUR));
    T(lseek(fd, 0, SEEK_CUR));
    return 0;
}
