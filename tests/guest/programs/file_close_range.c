#include "file_common.h"

static void show(void)
{
    for (int fd = 3; fd < 20; fd++)
        putchar(fcntl(fd, F_GETFD) < 0 ? '.' : fcntl(fd, F_GETFD) ? 'c' : 'o');
    putchar('\n');
    fflush(stdout);
}

int main(void)
{
    for (int i = 0; i < 12; i++)
        dup(1);
    show();
    T(syscall(SYS_close_range, 4, 5, 0));
    show();
    T(syscall(SYS_close_range, 7, 8, 4));
    show();
    T(syscall(SYS_close_range, 9, 8, 0));
    T(syscall(SYS_close_range, 9, 9, 1));
    T(syscall(SYS_close_range, 9, 10, 2));
    show();
    T(syscall(SYS_close_range, 100, 200, 0));
    T(syscall(SYS_close_range, 12, ~0U, 0));
    show();
    return 0;
}
