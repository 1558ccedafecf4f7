/* Windows and kept descriptors, which the threads of a process share and exchange while they run.
 *
 * Each is in one of three states:
 *
 *     NONE ---- ordered by `owner` ----> COMING ---- done ----> USABLE
 *      ^                                  |   ^                   |
 *      +---- not done, owner is back -----+   +---- ordered by `owner`, and no thread holds it
 *
 * - COMING: an operation in the owner's queue makes it. Only the owner may rely on it, because all that the owner
 *   does comes behind that operation.
 * - USABLE: every thread may. A descriptor becomes so when the sentry has injected it. A window does when its mmap
 *   was let through and its owner has come back without reporting a failure: a call of its own that the owner makes
 *   while another thread speaks in its name is all that is left to lie about, and then the process reads wrong bytes
 *   into its own memory. It can have them anyway: it sees all of its windows.
 * - A thread *holds* a window or descriptor that it relies on, from when that is written into its queue until it
 *   comes back from the reply that made use of it, or is gone (clear_queue). One that any thread holds is neither
 *   exchanged nor closed. So the order in which threads are resumed, and how long one is stopped with its queue full,
 *   do not matter.
 * - fork: the child has those that were USABLE when its clone was let through: nothing can change then, a process has
 *   one batch of operations under way. exec is another process. A vfork's child works on its parent's thread.
 * - The file behind a window may be cut off at any time: windows.c.
 */
#include "parts.h"

/* The windows and descriptors that threads of the process other than `but` hold. */
static uint64_t held_by_others(const struct prc *p, const struct thr *but)
{
    uint64_t all = 0;
    for (int i = 0; i < p->slot_high; i++)
        if (p->slots[i] && p->slots[i] != but)
            all |= p->slots[i]->holds;
    return all;
}

/* Which of [from, to) the process has, or is about to have, of that file; -1: none. */
int find_shared(const struct prc *p, int from, int to, uint64_t file, uint64_t part)
{
    for (int i = from; i < to; i++)
        if (p->shared[i].state != NONE && p->shared[i].part == part && p->shared[i].file == file)
            return i;
    return -1;
}

/* Which of [from, to) has been unused for longest, of those that no thread holds; -1: none. */
int oldest_free(const struct prc *p, int from, int to)
{
    uint64_t taken = held_by_others(p, NULL);
    int oldest = -1;
    for (int i = from; i < to; i++)
        if (!(taken & HOLD(i)) && (oldest < 0 || p->shared[i].stamp < p->shared[oldest].stamp))
            oldest = i;
    return oldest;
}

bool may_use(const struct thr *t, const struct shared *s)
{
    return s->state == USABLE || (s->state == COMING && s->owner == t);
}

/* NONE becomes COMING, by an operation that is about to be added to the owner's queue. */
void order_shared(struct thr *t, int i, uint64_t file, uint64_t part)
{
    t->prc->shared[i] = (struct shared){file, part, ++t->prc->stamp, COMING, t, t->op_count, true};
    t->holds |= HOLD(i) | OWNS_COMING;
}

static void lose(struct shared *s)
{
    s->state = NONE;
    s->stamp = 0;
}

/* The operations of `t` from number `from` on have not been done: windows that they were to map do not exist, and
 * descriptors that they were to close may. */
void fail_shared(struct thr *t, int from)
{
    struct shared *s = t->prc->shared;
    for (int i = 0; i < WINDOWS && t->holds & OWNS_COMING; i++)
        if (s[i].state == COMING && s[i].owner == t && s[i].op >= from)
            lose(&s[i]);
    for (int i = from; i < t->op_count; i++) {
        const struct op *op = &t->ops[i].op;
        if (op->nr == SYS_close && op->args[0] >= FIRST_KEPT && op->args[0] <= LAST_KEPT)
            s[AT_KEPT(op->args[0])].is_open = true;
    }
}

/* The owner is back, or gone. */
void settle(struct thr *t)
{
    for (int i = 0; i < SHARED; i++) {
        struct shared *s = &t->prc->shared[i];
        if (s->state != COMING || s->owner != t)
            continue;
        if (i < WINDOWS && s->op < t->matched)
            s->state = USABLE;
        else
            lose(s); /* never let through */
    }
}

/* The clone that makes `child` is let through. */
void inherit(struct prc *child, const struct prc *p)
{
    memcpy(child->shared, p->shared, sizeof p->shared);
    child->stamp = p->stamp;
    for (int i = 0; i < SHARED; i++)
        if (child->shared[i].state == COMING)
            lose(&child->shared[i]);
}

/* A blank is ordered: it inherits from the zygote's batch, if it is born at all. One that was needed before its turn
 * came has a queue with a record of its own. */
void inherit_ahead(struct prc *child, const struct prc *zygote, bool has_queue)
{
    for (int i = WINDOWS; i < SHARED; i++) {
        struct shared *s = &child->shared[i];
        if (has_queue) {
            s->is_open |= zygote->shared[i].is_open;
            continue;
        }
        *s = zygote->shared[i];
        if (s->state == COMING)
            s->state = USABLE;
        child->stamp = zygote->stamp;
    }
}

/* ---- kept descriptors ----
 *
 * In direct mode descriptors stay with a guest process, so that its further mappings of the same files need not ask: a
 * program's segments, the libraries that most programs load. platform/kept.py decides which files those are.
 *
 * They have numbers of their own, [FIRST_KEPT, LAST_KEPT]; the filter lets private mappings of these pass.  A batch of
 * operations that needs new ones begins with a notified operation that does nothing: with its notification they are
 * injected.
 */

/* (device, inode) of a file that is open for reading alone, or None.  os.fstat makes seventeen integers of it. */
PyObject *readable_file(int fd)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & (O_ACCMODE | O_PATH)) != O_RDONLY || fstat(fd, &st))
        return Py_NewRef(Py_None);
    return Py_BuildValue("(KK)", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
}

/* The number under which the thread may rely on the file, and holds it then; -1: none. */
int64_t find_kept(struct thr *t, uint64_t dev, uint64_t ino)
{
    int i = find_shared(t->prc, WINDOWS, SHARED, dev, ino);
    if (i < 0 || !may_use(t, &t->prc->shared[i]))
        return -1;
    t->prc->shared[i].stamp = ++t->prc->stamp;
    t->holds |= HOLD(i);
    return i - AT_KEPT(0);
}

/* Have the file's descriptor `fd` injected when the operations that are queued are carried out, under `number` or with -1
 * in the place of the one that has not been used for longest.  -> its number, -1 if that fails. */
int64_t give_kept(struct thr *t, int fd, uint64_t dev, uint64_t ino, int number)
{
    struct prc *p = t->prc;
    int i = number < 0 ? oldest_free(p, WINDOWS, SHARED) : oldest_free(p, AT_KEPT(number), AT_KEPT(number) + 1);
    if (i < WINDOWS || i >= SHARED || find_shared(p, WINDOWS, SHARED, dev, ino) >= 0)
        return -1;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return -1;
    struct hop *carrier = NULL;
    for (int k = t->sent; k < t->op_count && !carrier; k++)
        if (t->ops[k].gift_count)
            carrier = &t->ops[k];
    order_shared(t, i, dev, ino);
    if (!carrier) {
        carrier = add_call(t, SYS_munmap, MAX_ADDRESS, 4096); /* never mapped */
        carrier->notified = true;
    }
    carrier->gifts[carrier->gift_count] = copy; /* there is room: each brings another number, which `t` holds */
    carrier->gift_numbers[carrier->gift_count++] = i - AT_KEPT(0);
    return i - AT_KEPT(0);
}

/* A descriptor has been injected. */
void is_given(struct prc *p, int number)
{
    struct shared *s = &p->shared[AT_KEPT(number)];
    if (s->state == COMING)
        s->state = USABLE;
}

/* (device, inode) ...: close the descriptors that stay with its process, but those of the files named and of those that
 * the operations which are queued map. */
void queue_keep_only(struct thr *t, PyObject *const *identities, Py_ssize_t count)
{
    uint64_t needed = held_by_others(t->prc, t);
    for (int i = WINDOWS; i < SHARED; i++) {
        struct shared *s = &t->prc->shared[i];
        if (!s->is_open && t->prc->pid > 0)
            continue; /* before the birth no record shows what the child inherits */
        bool stays = needed & HOLD(i) || (s->state != NONE && t->holds & HOLD(i));
        for (Py_ssize_t k = 0; k + 1 < count && !stays; k += 2)
            stays = s->state != NONE && s->file == PyLong_AsUnsignedLongLongMask(identities[k]) &&
                    s->part == PyLong_AsUnsignedLongLongMask(identities[k + 1]);
        if (stays)
            continue;
        add_call(t, SYS_close, i - AT_KEPT(0), 0);
        lose(s);
        s->is_open = false;
        t->holds |= HOLD(i); /* nothing comes there until it is closed */
    }
}
