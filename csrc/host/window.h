/* Windows: files mapped read-only beside a guest's slots, so that the stub copies large reads from the page cache
 * itself: once, and without their crossing from one processor's cache to another's.
 *
 * Only files that the guest may read anyway.  `key` names one for ever; 0 stands for files that are not to be mapped.
 * Who may use a window when: hold.h.
 *
 * The file may be cut off, and the buffer may end, in the middle of a copy: then the stub says so (K_CUT), and the call
 * is made once more in the ordinary way (loop.read_again), so that its result and the file's position are right.  The
 * same happens when the mmap is refused.  A guest that says so without reason has its read repeated.
 */

#define STEADY (1ULL << 60) /* in a key: the file has what is read, nobody but the sentry can cut it off */
#define WINDOW_MIN_READ 2048
#define WINDOW_MIN_TOTAL (256 << 10) /* read of one file before it is worth a mapping */

/* Count what a process reads of a file: whether that is a lot. */
static bool reads_much(struct prc *p, uint64_t key, uint64_t length)
{
    struct meter *oldest = &p->meters[0];
    for (int i = 0; i < METERS; i++) {
        struct meter *m = &p->meters[i];
        if (m->key == key) {
            m->bytes += length;
            return m->bytes >= WINDOW_MIN_TOTAL;
        }
        if (m->stamp < oldest->stamp)
            oldest = m;
    }
    *oldest = (struct meter){key, length, ++p->window_stamp};
    return false;
}

/* The window with the range from which `t` may copy, -1: none. */
static int find_window(struct thr *t, uint64_t key, uint64_t offset, uint64_t length)
{
    struct prc *p = prcs[t->prc];
    for (int i = 0; i < WINDOWS; i++) {
        struct window *w = &p->windows[i];
        if (w->key == key && offset >= w->base && offset + length <= w->base + WINDOW_SIZE &&
            (w->state == USABLE || w->owner == t->id)) {
            w->stamp = ++p->window_stamp;
            return i;
        }
    }
    return -1;
}

/* Order the mapping of a window for the range; -1: it cannot be had. */
static int open_window(struct thr *t, int fd, uint64_t key, uint64_t offset, uint64_t length)
{
    struct prc *p = prcs[t->prc];
    uint64_t base = offset & ~(WINDOW_SIZE - 1);
    if (offset + length > base + WINDOW_SIZE || t->op_count || p->pid <= 0)
        return -1;
    uint64_t taken = held_by_others(p, NULL);
    int oldest = -1;
    for (int i = 0; i < WINDOWS; i++) {
        if (p->windows[i].key == key && p->windows[i].base == base)
            return -1; /* another thread is about to map it */
        if (!(taken & HOLD_WINDOW(i)) && (oldest < 0 || p->windows[i].stamp < p->windows[oldest].stamp))
            oldest = i;
    }
    int copy = oldest < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return -1;
    int number = rotate_fd(p), at = t->op_count;
    struct hop *map = add_op(t);
    map->op = (struct op){SYS_mmap, {WINDOW_BASE + oldest * WINDOW_SIZE, WINDOW_SIZE, PROT_READ, MAP_PRIVATE | MAP_FIXED,
                                     number, base}, 0};
    map->fd = copy;
    map->notified = true;
    struct hop *close = add_op(t);
    close->op.nr = SYS_close;
    close->op.args[0] = number;
    p->windows[oldest] = (struct window){key, base, ++p->window_stamp, COMING, t->id, at};
    t->holds |= OWNS_COMING;
    return oldest;
}

/* Let the stub copy from a window what a read asks for: bytes, or -1 if it must be read in another way. */
static int64_t read_window(struct thr *t, int fd, uint64_t key, int64_t offset, uint64_t addr, uint64_t length)
{
    struct prc *p = prcs[t->prc];
    struct stat st;
    if (!key || offset < 0 || length < WINDOW_MIN_READ || length > WINDOW_SIZE || t->wbuf_used ||
        t->rec_count >= MAX_COPIES || t->holds & AVOID_WINDOWS)
        return -1;
    if (!(key & STEADY)) {
        if (fstat(fd, &st) < 0)
            return -1;
        if (offset >= st.st_size)
            return 0;
        if (length > (uint64_t)(st.st_size - offset))
            length = st.st_size - offset;
    }
    int i = find_window(t, key, offset, length);
    if (i < 0 && reads_much(p, key, length))
        i = open_window(t, fd, key, offset, length);
    if (i < 0)
        return -1;
    t->holds |= HOLD_WINDOW(i);
    struct rec *r = add_rec(t);
    /* A private mapping: it never counts as one that could write. */
    *r = (struct rec){addr, length, FROM_WINDOW | (uint32_t)(i * WINDOW_SIZE + offset - p->windows[i].base), false};
    return length;
}

/* Carry out a deferred copy from a window now. */
static bool flush_window(struct prc *p, const struct rec *r)
{
    uint64_t from = WINDOW_BASE + (r->offset & ~FROM_WINDOW);
    char part[16384];
    for (uint32_t done = 0; done < r->length;) {
        size_t want = r->length - done < sizeof part ? r->length - done : sizeof part;
        struct iovec local = {part, want}, remote = {(void *)(from + done), want};
        ssize_t got = process_vm_readv(p->pid, &local, 1, &remote, 1, 0);
        if (got <= 0 || vm_write(p, part, r->addr + done, got) != got)
            return false;
        done += got;
    }
    return true;
}
