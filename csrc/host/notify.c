/* The one receive point for seccomp notifications: match each with an order, or refuse it.
 *
 * All arguments are scalars that the kernel copied when the call was made, so CONTINUE cannot race with the guest.
 * notif.pid alone identifies the asking thread.
 */
#include "parts.h"

#define NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64) /* since Linux 6.6, in newer headers with a longer name */
#define NOTIF_SYNC_WAKE_UP 1UL
/* The rest is found at the next look: the listener is watched level-triggered. Without the bound, guests that keep
 * making calls which are refused would take all of the sentry's time. */
#define MAX_NOTIFICATIONS 32
#define MAX_BELLS 64

bool is_sync;
static uint64_t bells[MAX_BELLS]; /* doorbells that are to be answered */
static int bell_count;

static bool answer(uint64_t id, int error, uint32_t flags)
{
    struct seccomp_notif_resp r = {.id = id, .val = 0, .error = error, .flags = flags};
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &r) >= 0;
}

static bool let_through(const struct seccomp_notif *n)
{
    return answer(n->id, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
}

static void deny(const struct seccomp_notif *n)
{
    answer(n->id, -EPERM, 0);
}

static bool inject(const struct seccomp_notif *n, int fd, int number, bool is_answer)
{
    struct seccomp_notif_addfd a = {.id = n->id,
                                    .flags = SECCOMP_ADDFD_FLAG_SETFD | (is_answer ? SECCOMP_ADDFD_FLAG_SEND : 0),
                                    .srcfd = fd,
                                    .newfd = number,
                                    .newfd_flags = O_CLOEXEC};
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a) >= 0;
}

static bool asks_for(const struct seccomp_notif *n, const struct op *op)
{
    return (uint64_t)(uint32_t)n->data.nr == op->nr && !memcmp(n->data.args, op->args, sizeof op->args);
}

/* An unknown process asks to map its region: adopt it if it proves to be the ordered fork. */
static void adopt(const struct seccomp_notif *n)
{
    siginfo_t si;
    int pid = n->pid, group = getpgid(pid);
    struct prc *p = prc_by_pid(group);
    struct prc *orphan = p ? NULL : orphan_of(group);
    if ((!p && !orphan) || waitid(P_PID, pid, &si, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0) { /* not a child of the
                                                                                                   sentry */
        deny(n);
        return;
    }
    struct prc *child = orphan ? orphan : p->cloned ? p->adopting : NULL;
    struct op own = {SYS_mmap, {REGION_BASE, REGION_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                                child ? (uint64_t)child->fork_fd : 0, 0}, 0};
    if (!child || !asks_for(n, &own) || setpgid(pid, pid) < 0) {
        /* A fork that was let through but does not behave: nothing is known about it, so it is killed. */
        kill(pid, SIGKILL);
        deny(n);
        return;
    }
    if (orphan)
        end_orphanhood(orphan);
    else
        end_adoption(p);
    child->pid = pid;
    for (int i = 0; i < child->slot_high; i++)
        if (child->slots[i] && !child->slots[i]->tid) {
            child->slots[i]->born = true;
            hash_add(child->slots[i], pid);
            break;
        }
    if (child->kill_wanted)
        kill(pid, SIGKILL);
    if (!inject(n, child->region_fd, child->fork_fd, false) || !let_through(n)) {
        kill(pid, SIGKILL);
        deny(n);
    }
    push_event(EV_STARTED, child->ident, 0);
}

/* In the middle of a batch the guest thread and the sentry take turns: on one processor that costs 8 us an operation,
 * across two the wake-up of an idle one makes it 40. For the last operation, and for a clone, both run on: two are
 * better. Linux before 6.6 lacks the flag; then nothing changes. */
static void set_sync(bool on)
{
    static bool refused;
    if (on == is_sync || refused)
        return;
    if (ioctl(listener, NOTIF_SET_FLAGS, on ? NOTIF_SYNC_WAKE_UP : 0UL) < 0)
        refused = true;
    else
        is_sync = on;
}

/* The first operation from `at` on that the filter asks about. */
static int next_notified(const struct thr *t, int at)
{
    while (at < t->op_count && !t->ops[at].notified)
        at++;
    return at;
}

/* The clone that was let through is asked for again: a stop by the host made it start over, or the guest lies. */
static bool asks_for_same_clone(struct thr *t, const struct seccomp_notif *n)
{
    struct hop *h = t->clone_at < 0 ? NULL : &t->ops[t->clone_at];
    return h && t->matched == t->clone_at + 1 && asks_for(n, &h->op) && is_unborn(t, h);
}

/* The answer to the question that `take` has put after a batch is said to have failed. */
static void prove(struct thr *t, const struct seccomp_notif *n)
{
    if (t->doubt != DOUBT_ASKED || n->data.nr != SYS_munmap || n->data.args[0] != MAX_ADDRESS) {
        deny(n);
    } else if (is_unborn(t, &t->ops[t->clone_at])) {
        t->doubt = DOUBT_PROVEN;
        answer(n->id, 0, 0);
    } else {
        end_liar(t->prc);
    }
}

/* The operation is let through: SENT becomes MATCHED. */
static void note_match(struct thr *t, struct hop *h)
{
    struct prc *p = t->prc;
    bool is_clone = h->op.nr == SYS_clone, is_thread = is_clone && h->op.args[0] & CLONE_VM;
    t->matched = (int)(h - t->ops) + 1;
    close_duplicates(h);
    if (is_thread) {
        h->child->born = true;
    } else if (is_clone) {
        set_cloned(p, true);
        if (!h->parked) /* the zygote's children know already: queue_fork */
            inherit(p->adopting, p);
    } else if (h->op.nr == SYS_exit) {
        run_remove(t);
        t->exited = true;
        owing -= t->gone;
        t->exit_tid = t->tid;
        hash_remove(t); /* its number may come again */
        end_batch(p);
    }
}

static void match(struct thr *t, const struct seccomp_notif *n)
{
    struct prc *p = t->prc;
    if (t->doubt) {
        prove(t, n);
        return;
    }
    if (p->op_thr != t || !t->running) {
        deny(n);
        return;
    }
    int at = next_notified(t, t->matched);
    struct hop *h = &t->ops[at];
    if (at >= t->sent || !asks_for(n, &h->op)) {
        if (!asks_for_same_clone(t, n) || !let_through(n))
            deny(n);
        return;
    }
    if (h->op.nr == SYS_clone && (h->op.args[0] & CLONE_VM ? !child_of(h) : !adopts(p, h))) {
        deny(n); /* no thread waits for it any more */
        return;
    }
    set_sync(h->op.nr != SYS_clone && next_notified(t, at + 1) < t->op_count);
    /* A carrier's call is not made: its last descriptor is the answer, which saves a wake-up. */
    for (int k = 0; k < h->gift_count; k++) {
        if (!inject(n, h->gifts[k], h->gift_numbers[k], k == h->gift_count - 1)) {
            deny(n);
            return;
        }
        is_given(p, h->gift_numbers[k]);
    }
    if (h->fd >= 0 && !inject(n, h->fd, (int)h->op.args[4], false))
        deny(n);
    else if (h->gift_count || let_through(n))
        note_match(t, h);
}

/* The running thread that makes a call for the first time, under that id. */
static struct thr *prove_thread(int tid)
{
    for (int i = 0; i < run_count; i++)
        if ((int)READ_ONCE(runs[i].thr->slot->tid) == tid && thread_tid(runs[i].thr) == tid)
            return runs[i].thr;
    return NULL;
}

void flush_bells(void)
{
    while (bell_count)
        answer(bells[--bell_count], 0, 0);
}

/* epoll has just reported one. After a waiter died RECV gives ENOENT once and would then block: poll before each
 * further one. */
void handle_notifications(void)
{
    union {
        struct seccomp_notif n;
        char room[512]; /* a newer kernel's may be larger */
    } u;
    struct pollfd pfd = {listener, POLLIN, 0};
    for (int count = 0; count < MAX_NOTIFICATIONS; count++) {
        if (listener < 0 || (count && (poll(&pfd, 1, 0) <= 0 || !(pfd.revents & POLLIN))))
            break;
        memset(&u, 0, sizeof u);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &u.n) < 0) {
            if (errno == ENOENT || errno == EINTR)
                continue;
            break;
        }
        notified_count++;
        if (u.n.data.nr == SYS_sched_yield) {
            /* Answered when the events at hand are dealt with: one wake-up instead of two. */
            if (bell_count == MAX_BELLS)
                flush_bells();
            bells[bell_count++] = u.n.id;
            continue;
        }
        struct thr *t = hash_find(u.n.pid);
        if (!t)
            t = prove_thread(u.n.pid);
        if (t)
            match(t, &u.n);
        else
            adopt(&u.n);
    }
}
