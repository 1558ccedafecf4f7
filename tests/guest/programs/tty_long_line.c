/* Writes to both sides of a terminal that take time and no room: a line without end, and characters that print nothing. */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <termios.h>
#include <unistd.h>

#define LENGTH (400 << 10)

int main(void)
{
    static char text[LENGTH], line[8192];
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY);
    grantpt(master);
    unlockpt(master);
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    struct termios mode;
    tcgetattr(slave, &mode);
    mode.c_lflag &= ~ECHO;
    mode.c_oflag |= ONOCR;
    tcsetattr(slave, TCSANOW, &mode);
    memset(text, 'a', LENGTH);
    printf("line: %zd\n", write(master, text, LENGTH));
    struct iovec parts[] = {{text, LENGTH / 2}, {text, LENGTH / 2}};
    printf("in parts: %zd\n", writev(master, parts, 2));
    aio_context_t context = 0;
    struct iocb order = {.aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = master, .aio_buf = (long)text, .aio_nbytes = LENGTH}, *orders[] = {&order};
    struct io_event event;
    syscall(SYS_io_setup, 1, &context);
    syscall(SYS_io_submit, context, 1, orders);
    syscall(SYS_io_getevents, context, 1, 1, &event, NULL);
    printf("asynchronously: %lld\n", event.res);
    write(master, "\n", 1);
    printf("read: %zd\n", read(slave, line, sizeof line));
    memset(text, '\r', LENGTH);
    printf("returns: %zd\n", write(slave, text, LENGTH));
    fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
    memset(text, 'b', LENGTH);
    printf("without waiting: %d\n", write(master, text, LENGTH) >= 4096);
    return 0;
}
