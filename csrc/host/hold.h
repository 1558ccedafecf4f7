/* What the threads of a process share and exchange while they run: windows (window.h) and kept descriptors (keep.h).
 *
 * Each is in one of three states:
 *
 *     NONE ---- ordered by `owner` ----> COMING ---- done ----> USABLE
 *      ^                                  |   ^                   |
 *      +---- not done, owner is back -----+   +---- ordered by `owner`, and nobody holds it
 *
 * - COMING: an operation in the owner's queue makes it.  The owner may rely on it, because whatever it does comes behind
 *   that operation; nobody else may.
 * - USABLE: every thread may.  A descriptor becomes so when we have injected it.  A window does when we have let its
 *   mmap through and its owner has come back without saying that it failed: a call of its own that the owner makes
 *   while another thread speaks in its name is all that is left to lie about, and then the process reads wrong bytes
 *   into its own memory.  It can have them anyway: it sees all of its windows.
 * - A thread *holds* what it relies on, from when that is written into its queue until it comes back from the reply that
 *   made use of it, or is gone (clear_queue).  Nobody exchanges or closes what anybody holds.  So the order in which
 *   threads are resumed, and how long one is stopped with its queue full, do not matter.
 * - fork: the child has what was USABLE when its clone was let through: nothing can change then, a process has one batch
 *   of operations under way (start_running).  exec is another process.  A vfork's child works on its parent's thread.
 * - The file behind a window may be cut off at any time: window.h.
 */

#define HOLD_WINDOW(i) (1ULL << (i))
#define HOLD_KEPT(i) (1ULL << (WINDOWS + (i)))
#define HOLD_WINDOWS (HOLD_KEPT(0) - 1)
#define OWNS_COMING (1ULL << 62)   /* it is the owner of something that is COMING */
#define AVOID_WINDOWS (1ULL << 63) /* its call is done once more, without them */
_Static_assert(WINDOWS + KEPT_FDS <= 62, "thr.holds is too small");

/* What the threads of a process hold; `but` not counted. */
static uint64_t held_by_others(const struct prc *p, const struct thr *but)
{
    uint64_t all = 0;
    for (int i = 0; i < p->slot_high; i++)
        if (p->slots[i] && p->slots[i] != but)
            all |= p->slots[i]->holds;
    return all;
}

/* The operations of `t` from number `from` on have not been done. */
static void fail_windows(struct thr *t, int from)
{
    for (int i = 0; i < WINDOWS && t->holds & OWNS_COMING; i++) {
        struct window *w = &prcs[t->prc]->windows[i];
        if (w->state == COMING && w->owner == t->id && w->op >= from)
            *w = (struct window){0};
    }
}

static void lose_kept(struct kept *k)
{
    k->state = NONE;
    k->stamp = 0;
}

/* The owner is back, or gone. */
static void settle(struct thr *t)
{
    struct prc *p = prcs[t->prc];
    fail_windows(t, t->matched); /* never let through */
    for (int i = 0; i < WINDOWS; i++)
        if (p->windows[i].state == COMING && p->windows[i].owner == t->id)
            p->windows[i].state = USABLE;
    for (int i = 0; i < KEPT_FDS; i++)
        if (p->kept[i].state == COMING && p->kept[i].owner == t->id)
            lose_kept(&p->kept[i]);
}

/* The clone that makes `child` is let through. */
static void inherit(struct prc *child, const struct prc *p)
{
    for (int i = 0; i < WINDOWS; i++)
        child->windows[i] = p->windows[i].state == USABLE ? p->windows[i] : (struct window){0};
    child->window_stamp = p->window_stamp;
    memcpy(child->kept, p->kept, sizeof p->kept);
    for (int i = 0; i < KEPT_FDS; i++)
        if (child->kept[i].state == COMING)
            lose_kept(&child->kept[i]);
    child->kept_stamp = p->kept_stamp;
}
