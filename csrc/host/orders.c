/* Orders: host operations that a stopped thread is to execute, in order, before it goes on.
 *
 * They stand in its queue, `ops`, which three counters cut: matched <= sent <= op_count.
 *
 *     QUEUED ---- the thread is resumed ----> SENT ---- notify.c: equal to what it asks for ----> MATCHED
 *        |                                      ^                                                    |
 *        | another batch of the process is      | release_held: that one is over       next round,   |
 *        | under way, or others wait already    |                                      clear_queue   |
 *        +---------------> HELD ----------------+                                                    v
 *
 * - QUEUED: [sent, op_count) of a stopped thread.  Nothing has happened; cancel_ops takes it back.
 * - HELD: `held`, in the order of resumption.  One address space has one batch under way, because the kernel may have
 *   given this thread a place that a waiting thread's munmap is yet to free.
 * - SENT: [matched, sent), in the slot, at most MAX_OPS (a round); `op_thr` of the process is the thread. Operations
 *   that the filter lets pass unasked (`notified` is false) harm no other process, so for those the guest's report
 *   counts: ops_done.
 * - MATCHED: [0, matched).  The host makes the call; only a failure of its own can prevent that.
 * - Then the thread posts: K_MORE, and the next round is sent; any other request, and clear_queue forgets all;
 *   K_OPS_FAILED, and `fail_batch` (requests.c) undoes those that were not carried out. A post that is not allowed
 *   ends the process.
 * - A batch with a clone that was let through and is reported as failed is in *doubt* until the host shows that there
 *   is no child (`prove`).
 *
 * An operation's own descriptors (`fd`, `gifts`) are closed when it is MATCHED or given up: close_duplicates, nowhere else.
 */
#include "parts.h"

#define MAX_QUEUE 100000

int ops_out, held_total;

struct hop *add_op(struct thr *t)
{
    t->ops = grow(t->ops, &t->op_room, t->op_count + 1, sizeof *t->ops);
    struct hop *h = &t->ops[t->op_count++];
    memset(h, 0, sizeof *h);
    h->fd = -1;
    return h;
}

struct hop *add_call(struct thr *t, uint64_t nr, uint64_t arg0, uint64_t arg1)
{
    struct hop *h = add_op(t);
    h->op = (struct op){nr, {arg0, arg1}, 0};
    return h;
}

/* Close the sentry's duplicates of descriptors in an operation that was carried out, or will not be. */
void close_duplicates(struct hop *h)
{
    while (h->gift_count)
        close(h->gifts[--h->gift_count]);
    if (h->fd >= 0)
        close(h->fd);
    h->fd = -1;
}

static void empty_queue(struct thr *t)
{
    t->op_count = t->sent = t->matched = t->round_start = t->must_match = 0;
    t->clone_at = -1;
}

/* The thread has come back from its orders, or is gone. */
void clear_queue(struct thr *t)
{
    if (t->holds & OWNS_COMING)
        settle(t);
    t->holds = 0;
    for (int i = t->matched; i < t->op_count; i++)
        close_duplicates(&t->ops[i]); /* the guest has skipped them */
    empty_queue(t);
    clear_writes(t);
    t->data_used = 0;
}

/* Give up operations, those from `from` on were not carried out: stop unborn children. */
void drop_ops(struct thr *t, int from)
{
    for (int i = 0; i < t->op_count; i++) {
        close_duplicates(&t->ops[i]);
        struct thr *child = child_of(&t->ops[i]);
        if (i >= from && child)
            run_remove(child);
    }
}

void cancel_ops(struct thr *t) /* all that is queued and not sent, births included */
{
    drop_ops(t, 0);
    if (t->holds & OWNS_COMING)
        settle(t);
    t->holds &= ~OWNS_COMING;
    empty_queue(t);
    t->unpark = NULL;
}

/* The process has no batch under way any more. */
void end_batch(struct prc *p)
{
    if (p->op_thr)
        ops_out--;
    p->op_thr = NULL;
}

bool ops_pending(struct prc *p)
{
    if (p->adopting)
        return true;
    struct thr *t = p->op_thr;
    if (!t)
        return false;
    /* Notified operations are known to have been let through or not; for the others, which harm no other process, the
     * guest's report counts. */
    if (t->running &&
        (t->matched < t->must_match || t->sent < t->op_count || READ_ONCE(t->slot->ops_done) != t->rounds))
        return true;
    end_batch(p);
    return false;
}

static void start_running(struct thr *t, bool may_defer);

static void send_ops(struct thr *t, int count)
{
    struct prc *p = t->prc;
    t->round_start = t->sent;
    for (int i = t->sent; i < t->sent + count; i++) {
        struct hop *h = &t->ops[i];
        struct thr *child = child_of(h);
        if (h->child && !child) {
            h->op = (struct op){SYS_close, {-1}, 0}; /* killed before its birth */
            h->notified = false;
        }
        t->slot->ops[i - t->sent] = h->op;
        if (h->notified)
            t->must_match = i + 1;
        if (!child)
            continue;
        t->clone_at = i;
        if (!(h->op.args[0] & CLONE_VM)) {
            p->adopting = child->prc;
            set_cloned(p, false);
        }
        if (!h->parked)
            start_running(child, false);
    }
    t->sent += count;
    if (!count)
        return;
    t->slot->ring = p->held_count > 0;
    t->rounds++;
    if (p->op_thr != t) {
        ops_out += !p->op_thr;
        p->op_thr = t;
        p->op_since = now_ns();
    }
}

/* Send the next round of operations and writes; the last one may be deferred. */
void send_round(struct thr *t, bool may_defer)
{
    uint32_t flags = 0;
    int count = t->op_count - t->sent < MAX_OPS ? t->op_count - t->sent : MAX_OPS;
    send_ops(t, count);
    int copies = t->sent == t->op_count ? send_writes(t) : 0;
    bool is_last = t->sent >= t->op_count && t->rec_sent >= t->rec_count;
    if (is_last && t->swaps) {
        flags |= RF_SWAP;
        t->swaps = false;
    }
    if (!is_last || t->owes == OWES_DONE)
        flags |= RF_MORE;
    else {
        if (t->base_changed) {
            flags |= RF_SET_BASE;
            t->base_changed = false;
            if (t->is_patched && !guest_gs(t))
                t->slot->gs_base = REGION_BASE + t->slotno * SLOT_SIZE;
        }
        if (t->has_result)
            flags |= RF_RESULT;
        flags |= t->leave_flags;
        t->leave_flags = 0;
    }
    flags |= (uint32_t)count << 16 | (uint32_t)copies << 24;
    struct thr *renewed = is_last ? t->unpark : NULL;
    if (is_last) {
        if (t->rec_count) {
            clear_writes(t);
            t->data_used = 0;
        }
        t->unpark = NULL;
    }
    if (!may_defer || count || !is_last || !defer_reply(t, flags))
        send_reply(t, flags);
    /* Unless its task has ended before it began. */
    if (renewed && renewed->used && renewed->serial == t->unpark_serial && !is_running(renewed) && !renewed->is_parked)
        start_running(renewed, false);
}

static void start_running(struct thr *t, bool may_defer)
{
    static uint64_t turns;
    struct prc *p = t->prc;
    if (p->dead)
        return;
    if (!t->op_count || (!p->held_count && !ops_pending(p))) {
        send_round(t, may_defer);
        return;
    }
    t->held = true;
    t->held_turn = ++turns;
    p->held_count++;
    held_total++;
    if (p->op_thr) {
        p->op_thr->slot->ring = 1;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
}

void end_hold(struct thr *t)
{
    if (!t->held)
        return;
    t->held = false;
    t->prc->held_count--;
    held_total--;
}

/* Send the batches of held threads whose turn has come. */
void release_held(void)
{
    for (int i = 0; i < prc_count && held_total; i++) {
        struct prc *p = prcs[i];
        if (!p->used || !p->held_count || ops_pending(p))
            continue;
        struct thr *first = NULL;
        for (int k = 0; k < p->slot_high; k++) {
            struct thr *t = p->slots[k];
            if (t && t->held && (!first || t->held_turn < first->held_turn))
                first = t;
        }
        if (!first)
            continue;
        end_hold(first);
        send_round(first, false);
    }
}

/* ---- ordering ---- */

static bool op_allowed(uint64_t nr, const uint64_t *a)
{
    switch (nr) {
    case SYS_mmap:
    case SYS_munmap:
    case SYS_mprotect:
    case SYS_madvise:
        return guest_range(a[0], a[1]);
    case SYS_mremap:
        return guest_range(a[0], a[1]) && guest_range(a[3] & MREMAP_FIXED ? a[4] : a[0], a[2]);
    case SYS_exit:
        return true;
    }
    return false;
}

/* A descriptor `fd` is injected for this operation, an mmap; -1: none.  `asks`: the filter will ask about it. */
void queue_op(struct thr *t, uint64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5,
              uint64_t extra, int fd, int asks)
{
    struct op op = {nr, {a0, a1, a2, a3, a4, a5}, extra};
    if (!op_allowed(nr, op.args))
        return (void)fail(EINVAL);
    if (t->op_count > MAX_QUEUE)
        return (void)fail(ENOMEM);
    int copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0 && copy < 0)
        return (void)fail(errno);
    if (fd >= 0)
        op.args[4] = rotate_fd(t->prc);
    t->exiting = t->exiting || nr == SYS_exit;
    struct hop *h = add_op(t);
    h->op = op;
    h->fd = copy;
    h->notified = fd >= 0 || asks;
    if (fd >= 0)
        add_call(t, SYS_close, op.args[4], 0);
}

/* A clone of `t` that starts the child's thread `ct`. */
static struct hop *queue_birth(struct thr *t, struct thr *ct, uint64_t flags, uint64_t stack)
{
    struct hop *h = add_call(t, SYS_clone, flags, stack);
    h->notified = true;
    h->child = ct;
    h->child_serial = ct->serial;
    return h;
}

void queue_fork(struct thr *t, struct prc *child, struct thr *ct, int is_blank) /* a blank stays stopped */
{
    struct prc *p = t->prc;
    p->forks_blank = is_blank;
    child->fork_fd = rotate_fd(p);
    child->injections = p->injections;
    if (is_blank)
        inherit_ahead(child, p, ct->op_count > 0);
    struct hop *h = queue_birth(t, ct, CLONE_PARENT | SIGCHLD, 0);
    h->op.extra = child->fork_fd;
    h->child_ident = child->ident;
    h->parked = is_blank;
}

void queue_clone(struct thr *t, struct thr *new) /* of the same process */
{
    uint64_t slot = REGION_BASE + new->slotno * SLOT_SIZE;
    uint64_t flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID;
    queue_birth(t, new, flags, slot + frame_offset)->op.args[2] = slot + SLOT_TID;
}

bool has_orders(struct thr *t) /* whether its reply has operations or copies from windows to carry out */
{
    return t->op_count || t->holds & HOLD_WINDOWS;
}

bool has_pending_ops(struct prc *p)
{
    return p->held_count || ops_pending(p);
}

/* ---- going on ---- */

void resume(struct thr *t) /* the first since the last event may have its reply deferred */
{
    bool was_deferring = is_deferring();
    start_running(t, !was_deferring);
    if (was_deferring)
        flush_deferred();
}

void ret(struct thr *t, int64_t value)
{
    t->result = value;
    t->has_result = true;
    resume(t);
}

void run_ops(struct thr *t) /* carry out the queue, then stop again */
{
    t->owes = OWES_DONE;
    start_running(t, false);
}

/* In a call from a patched site: as ret, then stop with EV_INTERRUPTED and a signal frame. With a frame: carry out
 * the queue, then stop again as run_ops does. */
void stop(struct thr *t, int64_t value)
{
    t->result = value;
    t->has_result = true;
    if (t->has_frame)
        return run_ops(t);
    t->owes = OWES_STOP;
    t->leave_flags = RF_STOP;
    t->irq_since = now_ns();
    t->irq_wanted = true;
    start_running(t, false);
}

/* run_ops, then change a word of the guest's, if it is `old` or with `any` in any case, to ((old & keep) + add) ^ flip. */
void swap(struct thr *t, uint64_t addr, uint64_t old, int any, uint64_t keep, uint64_t add, uint64_t flip)
{
    struct slot *s = t->slot;
    s->swap_addr = addr;
    s->swap_old = (uint32_t)old;
    s->swap_any = any;
    s->swap_keep = (uint32_t)keep;
    s->swap_add = (uint32_t)add;
    s->swap_flip = (uint32_t)flip;
    s->swap_failed = 1;
    t->swaps = true;
    run_ops(t);
}

int64_t swapped(struct thr *t) /* the word's old value as the guest reports it, -1 if it could not be accessed */
{
    uint32_t found = READ_ONCE(t->slot->swap_old);
    return READ_ONCE(t->slot->swap_failed) ? -1 : (int64_t)found;
}

/* ---- parking ---- */

bool park(struct thr *t) /* whether its host thread waits from now on until `renew` */
{
    if (is_running(t) || !t->has_frame || t->op_count || t->rec_count || t->prc->dead || t->exiting)
        return false;
    t->is_parked = true;
    t->is_patched = false;
    wait_long(t);
    return true;
}

void unpark(struct thr *t) /* it can be given orders again */
{
    if (!t->is_parked)
        return (void)PyErr_Format(PyExc_RuntimeError, "thread %d is not parked", t->id);
    t->is_parked = false;
}

void renew(struct thr *t, struct thr *from) /* with its registers: the parked thread starts when that one is resumed */
{
    if (!t->is_parked || !from->has_frame || from->prc != t->prc || from->unpark)
        return (void)PyErr_Format(PyExc_RuntimeError, "thread %d cannot be renewed", t->id);
    t->is_parked = false;
    fill_frame(t, from);
    from->unpark = t;
    from->unpark_serial = t->serial = next_serial();
}
