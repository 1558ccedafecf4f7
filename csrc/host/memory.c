/* Guest memory, and the descriptors of the sentry that are read into it and written from it.
 *
 * What is written to a stopped thread's memory is *deferred*: a record in `recs`, with its bytes in the slot's data buffer
 * or, when that is full or operations come before, in `wbuf`.  The stub copies them out when the thread goes on
 * (send_writes).  An access to the memory before that has them carried out (flush_process).
 */
#include "parts.h"

#define MAX_READ (1LL << 31)
#define CHUNK (1 << 20)
#define MAX_DEFERRED 16384 /* two copies of more cost as much as finding the guest's pages */

bool guest_range(uint64_t addr, uint64_t length)
{
    return addr < MAX_ADDRESS && length <= MAX_ADDRESS - addr;
}

static bool readable_range(uint64_t addr, uint64_t length)
{
    return guest_range(addr, length) ||
           (addr >= VDSO_BASE && addr < VDSO_BASE + VDSO_SIZE && length <= VDSO_BASE + VDSO_SIZE - addr);
}

static ssize_t vm_copy(struct prc *p, void *ours, uint64_t theirs, size_t length, bool is_write)
{
    struct iovec local = {ours, length}, remote = {(void *)theirs, length};
    ssize_t n = is_write ? process_vm_writev(p->pid, &local, 1, &remote, 1, 0)
                         : process_vm_readv(p->pid, &local, 1, &remote, 1, 0);
    return n < 0 ? 0 : n;
}

/* Both: how many bytes there are before a fault. */
static size_t vm_read(struct prc *p, void *to, uint64_t addr, size_t length)
{
    return length && p->pid > 0 && readable_range(addr, length) ? vm_copy(p, to, addr, length, false) : 0;
}

static size_t vm_write(struct prc *p, const void *from, uint64_t addr, size_t length)
{
    return length && p->pid > 0 && guest_range(addr, length) ? vm_copy(p, (void *)from, addr, length, true) : 0;
}

/* ---- deferred writes ---- */

struct rec *add_rec(struct thr *t, uint64_t addr, uint32_t length, uint32_t offset)
{
    t->recs = grow(t->recs, &t->rec_room, t->rec_count + 1, sizeof *t->recs);
    if (!t->rec_count)
        t->prc->rec_threads++;
    struct rec *r = &t->recs[t->rec_count++];
    *r = (struct rec){addr, length, offset, false};
    return r;
}

void clear_writes(struct thr *t)
{
    if (t->rec_count)
        t->prc->rec_threads--;
    t->rec_count = t->rec_sent = 0;
    t->wbuf_used = 0;
}

static bool fits_slot(struct thr *t, uint64_t length)
{
    return !t->wbuf_used && length <= DATA_SIZE && t->data_used + length <= DATA_SIZE && t->rec_count < MAX_COPIES;
}

/* `length` bytes in the slot's data buffer are to go there. */
static void defer_slot(struct thr *t, uint64_t addr, size_t length)
{
    add_rec(t, addr, length, t->data_used);
    t->data_used += (length + 15) & ~15u;
    if (t->data_used > DATA_SIZE)
        t->data_used = DATA_SIZE;
}

static void defer(struct thr *t, uint64_t addr, const char *data, size_t length)
{
    if (fits_slot(t, length)) {
        memcpy((char *)t->slot + DATA_OFFSET + t->data_used, data, length);
        return defer_slot(t, addr, length);
    }
    if (t->wbuf_used + length > t->wbuf_room) {
        t->wbuf_room = (t->wbuf_used + length) * 2;
        t->wbuf = realloc(t->wbuf, t->wbuf_room);
        if (!t->wbuf)
            abort();
    }
    add_rec(t, addr, length, t->wbuf_used)->spilled = true;
    memcpy(t->wbuf + t->wbuf_used, data, length);
    t->wbuf_used += length;
}

/* Put as many deferred writes into the slot as fit -> how many copies that makes. */
int send_writes(struct thr *t)
{
    struct slot *s = t->slot;
    int copies = 0;
    uint32_t used = t->rec_sent ? 0 : t->data_used;
    while (t->rec_sent < t->rec_count && copies < MAX_COPIES) {
        struct rec *r = &t->recs[t->rec_sent];
        uint32_t length = r->length;
        if (!r->spilled) {
            s->copies[copies++] = (struct copy){r->addr, length, r->offset};
            t->rec_sent++;
            continue;
        }
        if (used == DATA_SIZE)
            break;
        if (length > DATA_SIZE - used)
            length = DATA_SIZE - used;
        memcpy((char *)s + DATA_OFFSET + used, t->wbuf + r->offset, length);
        s->copies[copies++] = (struct copy){r->addr, length, used};
        used += length;
        r->addr += length;
        r->offset += length;
        r->length -= length;
        if (r->length)
            break;
        t->rec_sent++;
    }
    return copies;
}

/* Carry out a deferred copy from a window now. */
static bool flush_window(struct prc *p, const struct rec *r)
{
    uint64_t from = WINDOW_BASE + (r->offset & ~FROM_WINDOW);
    char part[16384];
    for (uint32_t done = 0; done < r->length;) {
        size_t want = r->length - done < sizeof part ? r->length - done : sizeof part;
        size_t got = vm_copy(p, part, from + done, want, false);
        if (!got || vm_write(p, part, r->addr + done, got) != got)
            return false;
        done += got;
    }
    return true;
}

/* Carry out the deferred writes of one stopped thread now, unless they wait for operations. */
static void flush_thread(struct thr *t)
{
    bool fault = false;
    if (!t->rec_count || t->op_count || is_running(t))
        return;
    for (int i = 0; i < t->rec_count; i++) {
        struct rec *r = &t->recs[i];
        bool from_window = !r->spilled && r->offset & FROM_WINDOW;
        char *from = r->spilled ? t->wbuf + r->offset : (char *)t->slot + DATA_OFFSET + r->offset;
        fault |= from_window ? !flush_window(t->prc, r) : vm_write(t->prc, from, r->addr, r->length) != r->length;
    }
    if (fault)
        return; /* keep them: the stub's copy faults again and gives -EFAULT */
    clear_writes(t);
}

static void flush_process(struct prc *p)
{
    for (int i = 0; i < p->slot_high && p->rec_threads; i++)
        if (p->slots[i])
            flush_thread(p->slots[i]);
}

/* ---- bytes ---- */

/* The bytes from there on that the stub has copied along, and their number, at least `length`; NULL without them. */
static const char *prefetched(struct thr *t, uint64_t addr, uint64_t length, uint64_t *there)
{
    for (int i = 0; i < t->prefetch_count; i++) {
        struct copy *c = &t->prefetch[i];
        if (addr < c->addr || length > c->length || addr - c->addr > c->length - length)
            continue;
        *there = c->length - (addr - c->addr);
        return (char *)t->slot + DATA_OFFSET + c->offset + (addr - c->addr);
    }
    return NULL;
}

void forget_prefetched(struct thr *t)
{
    t->prefetch_count = 0;
}

PyObject *read_process(struct prc *p, uint64_t addr, uint64_t length) /* fewer before a fault */
{
    if (length > MAX_READ)
        return fail(EINVAL);
    flush_process(p);
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, length);
    size_t n = bytes ? vm_read(p, PyBytes_AS_STRING(bytes), addr, length) : length;
    if (n != length)
        _PyBytes_Resize(&bytes, n);
    return bytes;
}

PyObject *read_thread(struct thr *t, uint64_t addr, uint64_t length)
{
    flush_process(t->prc);
    uint64_t there;
    const char *have = length > MAX_READ ? NULL : prefetched(t, addr, length, &there);
    return have ? PyBytes_FromStringAndSize(have, length) : read_process(t->prc, addr, length);
}

/* A string as far as it has been prefetched, with its NUL or `limit` bytes; None: it has to be read. */
PyObject *read_prefetched(struct thr *t, uint64_t addr, uint64_t limit)
{
    char local[4096];
    uint64_t there = 0;
    flush_process(t->prc);
    const char *have = prefetched(t, addr, 1, &there);
    if (!have)
        Py_RETURN_NONE;
    there = there < sizeof local ? there : sizeof local;
    memcpy(local, have, there);
    char *end = memchr(local, 0, there < limit ? there : limit);
    if (!end && limit > there)
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize(local, end ? (uint64_t)(end - local) : limit);
}

int64_t write_process(struct prc *p, uint64_t addr, const Py_buffer *data) /* -> how many bytes */
{
    flush_process(p);
    return vm_write(p, data->buf, addr, data->len);
}

/* Write to a thread's memory now, or when it runs; how much was written or deferred. */
static size_t put(struct thr *t, uint64_t addr, const char *from, size_t length)
{
    for (int i = 0; i < t->prefetch_count; i++) /* the prefetched copy is no longer current */
        if (addr < t->prefetch[i].addr + t->prefetch[i].length && t->prefetch[i].addr < addr + length)
            t->prefetch[i].length = 0;
    if (!guest_range(addr, length) || !length)
        return 0;
    if (!is_running(t)) {
        if (t->op_count || (length <= MAX_DEFERRED && fits_slot(t, length))) {
            defer(t, addr, from, length);
            return length;
        }
        flush_process(t->prc); /* writes keep their order: the deferred ones go first */
    }
    return vm_write(t->prc, from, addr, length);
}

int64_t write_thread(struct thr *t, uint64_t addr, const Py_buffer *data) /* -> how many bytes, written or deferred */
{
    return put(t, addr, data->buf, data->len);
}

/* A struct stat; the times are nanoseconds since 1970, not before it. */
bool write_stat(struct thr *t, uint64_t addr, uint64_t dev, uint64_t ino, uint64_t nlink, uint64_t mode, uint64_t uid, uint64_t gid,
                uint64_t rdev, uint64_t size, uint64_t blksize, uint64_t blocks, uint64_t atime, uint64_t mtime, uint64_t ctime)
{
    struct stat st = {
        .st_dev = dev, .st_ino = ino, .st_nlink = nlink, .st_mode = mode, .st_uid = uid, .st_gid = gid, .st_rdev = rdev,
        .st_size = size, .st_blksize = blksize, .st_blocks = blocks, .st_atim = {atime / 1000000000, atime % 1000000000},
        .st_mtim = {mtime / 1000000000, mtime % 1000000000}, .st_ctim = {ctime / 1000000000, ctime % 1000000000},
    };
    return !PyErr_Occurred() && put(t, addr, (const char *)&st, sizeof st) == sizeof st;
}

/* ---- descriptors ---- */

static char passing[CHUNK]; /* the bytes on their way through here */

/* One read or write, at `offset` or with -1 where the descriptor stands: how many bytes, or -errno. */
static int64_t transfer(int fd, int64_t offset, void *ours, size_t length, int flags, bool is_write)
{
    struct iovec v = {ours, length};
    ssize_t n;
    do {
        if (offset < 0 && !flags)
            n = is_write ? write(fd, ours, length) : read(fd, ours, length);
        else
            n = is_write ? pwritev2(fd, &v, 1, offset, flags) : preadv2(fd, &v, 1, offset, flags);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* Between a descriptor and memory that is not at hand, in pieces. */
static int64_t transfer_pieces(struct prc *p, int fd, int64_t offset, uint64_t addr, uint64_t length, int flags, bool is_write)
{
    uint64_t done = 0;
    do {
        size_t want = length - done < CHUNK ? length - done : CHUNK;
        size_t have = is_write ? vm_read(p, passing, addr + done, want) : want;
        int64_t at = offset < 0 ? offset : offset + (int64_t)done;
        int64_t n = !have && want ? -EFAULT : transfer(fd, at, passing, have, flags, is_write);
        if (n > 0 && !is_write) {
            size_t put = vm_write(p, passing, addr + done, n);
            if (put < (size_t)n) {
                done += put;
                n = -EFAULT;
            }
        }
        if (n < 0)
            return done ? (int64_t)done : n;
        done += n;
        if ((size_t)n < want)
            break;
    } while (done < length);
    return done;
}

/* -> how many bytes, or -errno.  `key`: of the file, if it may be mapped (windows.c). */
int64_t read_fd_into(struct thr *t, int fd, int64_t offset, uint64_t addr, uint64_t length, int flags, uint64_t key)
{
    if (!guest_range(addr, length))
        return -EFAULT;
    int64_t promised = key ? read_window(t, fd, key, offset, addr, length) : -1;
    if (promised >= 0)
        return promised;
    if (length <= DATA_SIZE && t->data_used + length > DATA_SIZE && !t->op_count && !t->rec_count) {
        t->data_used = 0; /* the prefetched data has served */
        t->prefetch_count = 0;
    }
    if (!fits_slot(t, length)) {
        flush_process(t->prc);
        return length ? transfer_pieces(t->prc, fd, offset, addr, length, flags, false) : 0;
    }
    /* Straight into the slot; the stub copies it out. */
    int64_t n = transfer(fd, offset, (char *)t->slot + DATA_OFFSET + t->data_used, length, flags, false);
    if (n > 0)
        defer_slot(t, addr, n);
    return n;
}

int64_t write_fd_from(struct thr *t, int fd, int64_t offset, uint64_t addr, uint64_t length, int flags)
{
    flush_process(t->prc);
    if (!readable_range(addr, length))
        return -EFAULT;
    uint64_t there;
    const char *have = prefetched(t, addr, length, &there);
    return have ? transfer(fd, offset, (void *)have, length, flags, true)
                : transfer_pieces(t->prc, fd, offset, addr, length, flags, true);
}

/* ---- a word of a memfd ---- */

/* -> the word found there, -1 if there is none; one atomic instruction. Only the caller may cut the file off: beyond
 * its end there is SIGBUS. */
int64_t swap_shared(int fd, uint64_t offset, uint64_t old, uint64_t new)
{
    uint32_t found = (uint32_t)old;
    struct stat st;
    if (PyErr_Occurred() || offset & 3 || fstat(fd, &st) < 0 || st.st_size < 4 || offset > (uint64_t)st.st_size - 4)
        return -1;
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(offset & ~4095ULL));
    if (page == MAP_FAILED)
        return -1;
    __atomic_compare_exchange_n((uint32_t *)(page + (offset & 4095)), &found, (uint32_t)new, false, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
    munmap(page, 4096);
    return found;
}
