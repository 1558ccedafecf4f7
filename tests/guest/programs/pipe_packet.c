/* O_DIRECT: packet mode. */
#include "event_show.h"
#include <sys/ioctl.h>

int main(void)
{
    int p[2], n;
    static char b[20000];
    SHOW(pipe2(p, O_DIRECT | O_NONBLOCK));
    SHOW(fcntl(p[1], F_GETFL) & O_DIRECT);
    SHOW(fcntl(p[0], F_GETFL) & O_DIRECT);
    write(p[1], "one", 3);
    write(p[1], "three", 5);
    SHOW(ioctl(p[0], FIONREAD, &n));
    printf("%d\n", n);
    SHOW(read(p[0], b, 2));
    SHOW(read(p[0], b, 100));
    SHOW(write(p[1], b, 10000));
    for (int i = 0; i < 4; i++)
        SHOW(read(p[0], b, 20000));
    for (n = 0; write(p[1], "x", 1) == 1; n++)
        ;
    printf("packets %d\n", n);
    SHOW(read(p[0], b, 100));
    SHOW(fcntl(p[1], F_SETFL, O_NONBLOCK));
    SHOW(write(p[1], "ab", 2));
    SHOW(write(p[1], "cd", 2));
    while (read(p[0], b, 100) == 1)
        ;
    write(p[1], "ef", 2);
    write(p[1], "gh", 2);
    SHOW(read(p[0], b, 100));
    return 0;
}
