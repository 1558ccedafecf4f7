/* Asynchronous I/O: contexts, reads, writes, syncs, polls, eventfd notification, cancelling, errors. */
#include "event_show.h"
#include <linux/aio_abi.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>

static aio_context_t ctx;

static long submit(struct iocb *a, struct iocb *b)
{
    struct iocb *list[2] = {a, b};
    return syscall(SYS_io_submit, ctx, b ? 2L : 1L, list);
}

static void events(long least, long most, int timeout_ms)
{
    struct io_event e[8];
    struct timespec t = {timeout_ms / 1000, timeout_ms % 1000 * 1000000};
    long n = syscall(SYS_io_getevents, ctx, least, most, e, timeout_ms < 0 ? NULL : &t);
    if (n < 0)
        printf("events: %s\n", strerrorname_np(errno));
    else
        printf("events: %ld\n", n);
    for (long i = 0; i < n; i++)
        printf("  data %llu res %lld res2 %lld\n", (unsigned long long)e[i].data, (long long)e[i].res, (long long)e[i].res2);
}

static struct iocb make(int op, int fd, void *buf, long count, long offset, int data)
{
    return (struct iocb){.aio_lio_opcode = op, .aio_fildes = fd, .aio_buf = (uintptr_t)buf, .aio_nbytes = count,
                         .aio_offset = offset, .aio_data = data};
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    aio_context_t other = 1;
    SHOW(syscall(SYS_io_setup, 0, &ctx));
    SHOW(syscall(SYS_io_setup, 1, &other));
    SHOW(syscall(SYS_io_setup, 1, NULL));
    SHOW(syscall(SYS_io_setup, 1000000, &ctx));
    SHOW(syscall(SYS_io_setup, 8, &ctx));
    printf("ctx %d\n", ctx != 0);

    int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600), p[2];
    char buf[32] = "", two[8] = "";
    struct iovec iov[2] = {{"abc", 3}, {"defg", 4}};
    struct iocb a = make(IOCB_CMD_PWRITE, fd, "hello world", 11, 0, 1);
    struct iocb b = make(IOCB_CMD_PWRITEV, fd, iov, 2, 20, 2);
    SHOW(submit(&a, &b));
    events(2, 8, -1);
    a = make(IOCB_CMD_PREAD, fd, buf, 20, 6, 3);
    struct iovec in[2] = {{two, 2}, {two + 2, 3}};
    b = make(IOCB_CMD_PREADV, fd, in, 2, 20, 4);
    SHOW(submit(&a, &b));
    events(0, 1, 0);
    events(0, 8, 0);
    printf("%s %s\n", buf, two);
    a = make(IOCB_CMD_FSYNC, fd, NULL, 0, 0, 5);
    b = make(IOCB_CMD_FDSYNC, fd, NULL, 0, 0, 6);
    SHOW(submit(&a, NULL));
    events(1, 8, -1);
    SHOW(submit(&b, NULL));
    events(1, 8, -1);

    a = make(IOCB_CMD_PREAD, 1000, buf, 1, 0, 7);
    SHOW(submit(&a, NULL));
    a = make(99, fd, buf, 1, 0, 7);
    SHOW(submit(&a, NULL));
    a = make(IOCB_CMD_PREAD, fd, buf, 5, 0, 7);
    b = make(IOCB_CMD_PREAD, 1000, buf, 1, 0, 7);
    SHOW(submit(&a, &b));
    events(1, 8, -1);
    a = make(IOCB_CMD_PREAD, fd, (void *)8, 5, 0, 8);
    SHOW(submit(&a, NULL));
    events(1, 8, -1);
    int rd = open("file", O_RDONLY), dir = open(".", O_RDONLY);
    a = make(IOCB_CMD_PWRITE, rd, buf, 5, 0, 9);
    SHOW(submit(&a, NULL));
    a = make(IOCB_CMD_PREAD, dir, buf, 5, 0, 9);
    SHOW(submit(&a, NULL));
    a = make(IOCB_CMD_PREAD, fd, buf, -5, 0, 9);
    SHOW(submit(&a, NULL));
    a = make(IOCB_CMD_PREAD, fd, buf, 5, 0, 9);
    a.aio_reserved2 = 1;
    SHOW(submit(&a, NULL));
    SHOW(syscall(SYS_io_submit, ctx, -1L, NULL));
    SHOW(syscall(SYS_io_submit, ctx, 0L, NULL));
    SHOW(syscall(SYS_io_submit, ctx, 1L, NULL));
    SHOW(syscall(SYS_io_submit, ctx + 8192, 1L, NULL));
    events(2, 1, 0);
    events(-1, 1, 0);
    long long before = now_ms();
    events(1, 1, 20);
    printf("waited %d\n", now_ms() - before >= 20);

    int ev = eventfd(0, EFD_NONBLOCK);
    a = make(IOCB_CMD_PREAD, fd, buf, 5, 0, 10);
    a.aio_flags = IOCB_FLAG_RESFD;
    a.aio_resfd = ev;
    SHOW(submit(&a, NULL));
    uint64_t count = 0;
    SHOW(read(ev, &count, 8));
    printf("count %d\n", (int)count);
    events(1, 8, -1);
    a.aio_resfd = fd;
    SHOW(submit(&a, NULL));

    pipe(p);
    a = make(IOCB_CMD_POLL, p[0], (void *)(long)POLLIN, 0, 0, 11);
    SHOW(submit(&a, NULL));
    events(0, 8, 0);
    struct iocb unknown = a;
    struct io_event cancelled;
    SHOW(syscall(SYS_io_cancel, ctx, &unknown, &cancelled));
    write(p[1], "x", 1);
    events(1, 8, -1);
    SHOW(submit(&a, NULL));
    events(1, 8, -1);
    read(p[0], buf, 1);
    SHOW(submit(&a, NULL));
    pid_t child = fork();
    if (!child) {
        SHOW(syscall(SYS_io_getevents, ctx, 0L, 1L, &cancelled, NULL));
        nap_ms(20);
        write(p[1], "y", 1);
        _exit(0);
    }
    events(1, 8, -1);
    waitpid(child, NULL, 0);
    a = make(IOCB_CMD_PREAD, p[0], buf, 5, 0, 12);
    SHOW(submit(&a, NULL));
    events(1, 8, -1);
    a = make(IOCB_CMD_POLL, p[0], (void *)(long)POLLIN, 1, 0, 11);
    SHOW(submit(&a, NULL));
    a = make(IOCB_CMD_POLL, p[0], (void *)(long)POLLIN, 0, 0, 13);
    SHOW(submit(&a, NULL));
    SHOW(syscall(SYS_io_destroy, ctx));
    SHOW(syscall(SYS_io_destroy, ctx));
    events(0, 1, 0);
    return 0;
}
