/* The ring of completed events in the program's own memory, RWF_NOWAIT, and how large a context may be. */
#include "event_show.h"
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <sys/syscall.h>

struct ring { unsigned id, nr, head, tail, magic, compat, incompat, header; struct io_event events[]; };
static aio_context_t ctx;

static long submit(int op, int fd, void *buffer, long count, int data, int flags)
{
    struct iocb one = {.aio_lio_opcode = op, .aio_fildes = fd, .aio_buf = (uintptr_t)buffer, .aio_nbytes = count, .aio_data = data, .aio_rw_flags = flags}, *list[1] = {&one};
    return syscall(SYS_io_submit, ctx, 1L, list);
}

static void show(const char *when)
{
    volatile struct ring *ring = (void *)ctx;
    printf("%s: pending %u\n", when, (ring->tail - ring->head + ring->nr) % ring->nr);
}

static long take(long most)
{
    struct io_event events[16];
    struct timespec now = {0, 0};
    long n = syscall(SYS_io_getevents, ctx, 0L, most, events, &now);
    for (long i = 0; i < n; i++)
        printf("  data %llu res %lld\n", (unsigned long long)events[i].data, (long long)events[i].res);
    return n;
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    unsigned sizes[] = {0, 70000, 4194304, 4194305, 0x7fffffff, 0x80000000, 0xffffffff};
    for (int i = 0; i < 7; i++) {
        ctx = 0;
        SHOW(syscall(SYS_io_setup, sizes[i], &ctx));
    }
    ctx = 0;
    SHOW(syscall(SYS_io_setup, 5, &ctx));
    volatile struct ring *ring = (void *)ctx;
    printf("magic %x compat %u incompat %u header %u enough %d\n", ring->magic, ring->compat, ring->incompat, ring->header, ring->nr >= 10);
    int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600), two[2];
    show("at first");
    for (int i = 1; i <= 4; i++)
        submit(IOCB_CMD_PWRITE, fd, "hello", i, i, 0);
    show("four writes");
    printf("in the ring: data %llu res %lld\n", (unsigned long long)ring->events[ring->head].data, (long long)ring->events[ring->head].res);
    ring->head = (ring->head + 1) % ring->nr; /* taken by hand */
    SHOW(take(2));
    show("two taken");
    SHOW(take(5));
    show("all taken");
    SHOW(take(5));
    for (int round = 0; round < 200; round++) { /* round and round */
        submit(IOCB_CMD_PWRITE, fd, "hello", 5, round, 0);
        submit(IOCB_CMD_PWRITE, fd, "hello", 5, round, 0);
        if (ring->events[ring->head].data != (unsigned)round)
            printf("round %d: other data\n", round);
        ring->head = (ring->head + 2) % ring->nr;
    }
    show("after many");
    pipe(two);
    char buffer[8];
    SHOW(submit(IOCB_CMD_PREAD, two[0], buffer, 8, 77, RWF_NOWAIT));
    SHOW(take(5));
    write(two[1], "abc", 3);
    SHOW(submit(IOCB_CMD_PREAD, two[0], buffer, 8, 78, RWF_NOWAIT));
    SHOW(take(5));
    ring->head = 0xffffffff; /* nonsense harms no other process */
    submit(IOCB_CMD_PWRITE, fd, "hello", 5, 1, 0);
    SHOW(syscall(SYS_io_destroy, ctx));
    return 0;
}
