/* The one receive point for seccomp notifications: match each with what was ordered, or refuse it.
 *
 * All arguments are scalars that the kernel copied when the call was made, so CONTINUE cannot race with the guest.
 * Who asks is known from notif.pid alone.
 */

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

static int send_reply(uint64_t id, int error, uint32_t flags)
{
    struct seccomp_notif_resp r = {.id = id, .val = 0, .error = error, .flags = flags};
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &r) < 0 ? -errno : 0;
}

static void deny(const struct seccomp_notif *n)
{
    stat_denied++;
    send_reply(n->id, -EPERM, 0);
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

/* A clone result that the guest can forge names a candidate; the kernel says whether it is a thread of the process. */
static struct thr *prove_thread(int tid)
{
    for (int i = 0; i < thr_count; i++) {
        struct thr *t = thrs[i];
        if (!t->used || t->tid || !t->running)
            continue;
        struct prc *p = prcs[t->prc];
        if (p->pid <= 0 || p->pid == tid || (int)READ_ONCE(t->slot->tid) != tid)
            continue;
        if (syscall(SYS_tgkill, p->pid, tid, 0) == 0) {
            t->tid = tid;
            hash_add(t);
            return t;
        }
    }
    return NULL;
}

static bool is_child(int pid)
{
    siginfo_t si;
    return waitid(P_PID, pid, &si, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0;
}

/* A process that nobody knows yet asks to map its region: adopt it if it proves to be the ordered fork. */
static void adopt(const struct seccomp_notif *n)
{
    int pid = n->pid, group = getpgid(pid);
    struct prc *p = prc_by_pid(group);
    struct orphan *o = p ? NULL : find_orphan(group);
    if ((!p && !o) || !is_child(pid)) {
        deny(n);
        return;
    }
    struct prc *child = NULL;
    if (o ? o->child >= 0 : p->adopting >= 0 && p->cloned)
        child = prcs[o ? o->child : p->adopting];
    const __u64 *a = n->data.args;
    if (!child || n->data.nr != SYS_mmap || a[0] != REGION_BASE || a[1] != REGION_SIZE ||
        a[2] != (PROT_READ | PROT_WRITE) || a[3] != (MAP_SHARED | MAP_FIXED) || a[4] != (__u64)child->fork_fd ||
        a[5] != 0 || setpgid(pid, pid) < 0) {
        /* A fork that was let through but does not behave: nothing of it is known, so it goes. */
        kill(pid, SIGKILL);
        deny(n);
        return;
    }
    if (o) {
        remove_orphan(o);
    } else {
        p->adopting = -1;
        set_cloned(p, false);
    }
    child->pid = pid;
    child->parent = -1;
    for (int i = 0; i < child->slot_high; i++)
        if (child->slots[i] && !child->slots[i]->tid) {
            child->slots[i]->tid = pid;
            child->slots[i]->born = true;
            hash_add(child->slots[i]);
            break;
        }
    if (child->kill_wanted)
        kill(pid, SIGKILL);
    if (!inject(n, child->region_fd, child->fork_fd, false) ||
        send_reply(n->id, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE) < 0) {
        kill(pid, SIGKILL);
        deny(n);
    }
    push_event(7, -1, child->ident, 0);
}

/* In the middle of a batch the guest thread and we take turns: on one processor that costs 8 us an operation, across
 * two the wake-up of an idle one makes it 40.  For the last operation, and for a clone, both run on: two are better.
 * Linux before 6.6 lacks the flag; then nothing changes. */
static void set_sync(bool on)
{
    static bool refused;
    if (on == is_sync || refused)
        return;
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, on ? SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP : 0UL) < 0)
        refused = true;
    else
        is_sync = on;
}

static bool asks_again(struct thr *t, int i)
{
    while (++i < t->op_count)
        if (t->ops[i].notified)
            return true;
    return false;
}

/* The thread makes another call, so its clone is over: whether nothing was born of it. */
static bool is_unborn(struct thr *t, const struct hop *h)
{
    struct prc *p = prcs[t->prc];
    if (h->op.args[0] & CLONE_VM)
        return !has_unknown_thread(p, child_of(h));
    return adopts(p, h) && p->cloned && unknown_child(p->pid) == 0;
}

/* The clone that was let through is asked for again: a stop by the host had it start over, or it is a lie. */
static bool asks_for_same_clone(struct thr *t, const struct seccomp_notif *n)
{
    struct hop *h = t->clone_at < 0 ? NULL : &t->ops[t->clone_at];
    return h && t->matched == t->clone_at + 1 && (uint64_t)(uint32_t)n->data.nr == SYS_clone &&
           !memcmp(n->data.args, h->op.args, sizeof h->op.args) && is_unborn(t, h);
}

/* The answer to the question that `take` has put after a batch is said to have failed. */
static void prove(struct thr *t, const struct seccomp_notif *n)
{
    if (t->doubt != DOUBT_ASKED || n->data.nr != SYS_munmap || n->data.args[0] != MAX_ADDRESS) {
        deny(n);
        return;
    }
    if (is_unborn(t, &t->ops[t->clone_at])) {
        t->doubt = DOUBT_PROVEN;
        send_reply(n->id, 0, 0);
    } else {
        end_liar(prcs[t->prc]);
    }
}

static void match(struct thr *t, const struct seccomp_notif *n)
{
    struct prc *p = prcs[t->prc];
    if (t->doubt) {
        prove(t, n);
        return;
    }
    if (p->op_thr != t->id || !t->running) {
        deny(n);
        return;
    }
    int i = t->matched;
    while (i < t->sent && !t->ops[i].notified)
        i++;
    struct hop *h = &t->ops[i];
    if (i >= t->sent || (uint64_t)(uint32_t)n->data.nr != h->op.nr ||
        memcmp(n->data.args, h->op.args, sizeof h->op.args)) {
        if (!asks_for_same_clone(t, n) || send_reply(n->id, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE) < 0)
            deny(n);
        return;
    }
    struct thr *born = child_of(h);
    if (h->op.nr == SYS_clone && (h->op.args[0] & CLONE_VM ? !born : !adopts(p, h))) {
        deny(n); /* nobody waits for it any more */
        return;
    }
    set_sync(h->op.nr != SYS_clone && asks_again(t, i));
    /* A carrier's call is not made: its last descriptor is the answer, which saves a wake-up. */
    for (int k = 0; k < h->gift_count; k++) {
        if (!inject(n, h->gifts[k], h->gift_numbers[k], k == h->gift_count - 1)) {
            deny(n);
            return;
        }
        is_given(p, h->gift_numbers[k]);
    }
    if (h->fd >= 0 && !inject(n, h->fd, (int)h->op.args[4], false)) {
        deny(n);
        return;
    }
    if (!h->gift_count && send_reply(n->id, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE) < 0)
        return;
    t->matched = i + 1;
    close_duplicates(h);
    if (h->op.nr == SYS_clone && h->op.args[0] & CLONE_VM) {
        born->born = true;
    } else if (h->op.nr == SYS_clone) {
        set_cloned(p, true);
        if (!h->parked) /* the zygote's children know already: queue_fork */
            inherit(prcs[p->adopting], p);
    }
    if (h->op.nr == SYS_exit) {
        run_remove(t);
        t->exited = true;
        if (t->gone)
            owing--;
        t->exit_tid = t->tid;
        hash_remove(t); /* its number may come again */
        p->op_thr = -1;
        ops_out--;
    }
}

static void flush_bells(void)
{
    while (bell_count)
        send_reply(bells[--bell_count], 0, 0);
}

/* What stays is found at the next look: the listener is watched level-triggered.  Without the bound, guests that keep
 * making calls which are refused would have all of our time. */
#define MAX_NOTIFICATIONS 32

static void handle_notifications(void)
{
    union {
        struct seccomp_notif n;
        char room[512]; /* a newer kernel's may be larger */
    } u;
    struct pollfd pfd = {listener, POLLIN, 0};
    /* After a waiter died RECV gives ENOENT once and would then block: poll before each. */
    for (int count = 0; count < MAX_NOTIFICATIONS; count++) {
        if (listener < 0 || poll(&pfd, 1, 0) <= 0 || !(pfd.revents & POLLIN))
            break;
        memset(&u, 0, sizeof u);
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &u.n) < 0) {
            if (errno == ENOENT || errno == EINTR)
                continue;
            break;
        }
        stat_notif++;
        if (u.n.data.nr == SYS_sched_yield) {
            /* Answered when the events at hand are dealt with: one wake-up instead of two. */
            if (bell_count < 64)
                bells[bell_count++] = u.n.id;
            else
                send_reply(u.n.id, 0, 0);
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
