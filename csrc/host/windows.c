/* Windows: files mapped read-only beside a guest's slots, so that the stub copies large reads from the page cache
 * itself: once, and without their crossing from one processor's cache to another's.
 *
 * Only files that the guest may read anyway are mapped. A `key` names one file for ever; 0 stands for files that are
 * not to be mapped, or not yet: systrap.py counts what is read. sharing.c tells which threads may use a window when.
 *
 * The file may be cut off, and the buffer may end, in the middle of a copy: then the stub reports it (K_CUT), and the
 * call is made once more in the ordinary way (loop.read_again), so that its result and the file's position are right.
 * The same happens when the mmap is refused. A guest that reports this without reason has its read repeated.
 */
#include "parts.h"

/* The window with the range from which `t` may copy, -1: none. */
static int find_window(struct thr *t, uint64_t key, uint64_t offset, uint64_t length)
{
    for (int i = 0; i < WINDOWS; i++) {
        struct shared *w = &t->prc->shared[i];
        if (w->file == key && offset >= w->part && offset + length <= w->part + WINDOW_SIZE && may_use(t, w)) {
            w->stamp = ++t->prc->stamp;
            t->holds |= HOLD(i);
            return i;
        }
    }
    return -1;
}

/* Order the mapping of a window for the range; -1 if that fails. */
static int open_window(struct thr *t, int fd, uint64_t key, uint64_t offset, uint64_t length)
{
    struct prc *p = t->prc;
    uint64_t base = offset & ~(WINDOW_SIZE - 1);
    if (offset + length > base + WINDOW_SIZE || t->op_count || p->pid <= 0 ||
        find_shared(p, 0, WINDOWS, key, base) >= 0) /* another thread is about to map it */
        return -1;
    int i = oldest_free(p, 0, WINDOWS);
    int copy = i < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return -1;
    uint64_t number = rotate_fd(p);
    order_shared(t, i, key, base);
    struct hop *map = add_op(t);
    map->op = (struct op){SYS_mmap, {WINDOW_BASE + i * WINDOW_SIZE, WINDOW_SIZE, PROT_READ, MAP_PRIVATE | MAP_FIXED,
                                     number, base}, 0}; /* private: it never counts as a mapping that could write */
    map->fd = copy;
    map->notified = true;
    add_call(t, SYS_close, number, 0);
    return i;
}

/* Have the stub copy the bytes of a read from a window: how many, or -1 if they must be read in another way. */
int64_t read_window(struct thr *t, int fd, uint64_t key, int64_t offset, uint64_t addr, uint64_t length)
{
    struct stat st;
    if (offset < 0 || length > WINDOW_SIZE || t->wbuf_used || t->rec_count >= MAX_COPIES || t->holds & AVOID_WINDOWS)
        return -1;
    if (!(key & STEADY_KEY)) {
        if (fstat(fd, &st) < 0)
            return -1;
        if (offset >= st.st_size)
            return 0;
        if (length > (uint64_t)(st.st_size - offset))
            length = st.st_size - offset;
    }
    int i = find_window(t, key, offset, length);
    if (i < 0)
        i = open_window(t, fd, key, offset, length);
    if (i < 0)
        return -1;
    add_rec(t, addr, length, FROM_WINDOW | (uint32_t)(i * WINDOW_SIZE + offset - t->prc->shared[i].part));
    return length;
}
