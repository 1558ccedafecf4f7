/* cloche.platform._native: what the systrap platform does that Python cannot do at speed.
 *
 * Owns the threads and processes as the host sees them, the slots, the one receive point for seccomp
 * notifications, and the event loop.  Handles are small integers; policy (what to order when) is in systrap.py.
 *
 * Trust: every byte of a slot is the guest's.  A field is read once (READ_ONCE), checked, and used from the local
 * copy.  What a guest may make the host do is decided by the sentry's own copies in `struct thr` and `struct prc`.
 *
 * Single-threaded: no locks.  The GIL is released only inside epoll_wait.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shared.h"

#define READ_ONCE(x) (*(volatile __typeof__(x) *)&(x))

#define FIRST_KEPT 8 /* descriptors that stay with a guest: keep.h (filter.py says the same) */
#define LAST_KEPT 23
#define KEPT_FDS (LAST_KEPT - FIRST_KEPT + 1)
#define KEPT_MAP_FLAGS 0x2cc12ULL /* PRIVATE FIXED DENYWRITE NORESERVE POPULATE STACK and EXECUTABLE */
#define FIRST_FD 24 /* others that are injected rotate through [FIRST_FD, LAST_FD] and are closed again */
#define LAST_FD 63
#define FRAME_MAX (STACK_SIZE / 2)
#define UC_OFFSET 8      /* of the ucontext in a signal frame, behind the return address */
#define REGS_OFFSET 40   /* of sigcontext in the ucontext */
#define REG_COUNT 18
#define RAX_INDEX 13
#define FPPTR_OFFSET (REGS_OFFSET + 184)
#define SIGMASK_OFFSET (REGS_OFFSET + 256)

/* ---- state ---- */

struct hop { /* an ordered operation: the sentry's own copy */
    struct op op;
    int fd;        /* to inject with its notification, or -1 */
    bool notified; /* the filter asks us */
    int child;     /* clone: the thread that it starts (child_of); else -1 */
    uint64_t child_serial;
    int64_t child_ident; /* fork: of the process */
    bool parked;   /* ... stays stopped in its slot (a blank) */
    bool is_carrier;      /* does nothing: its notification brings `gifts` */
    uint8_t gift_count;
    uint8_t gift_numbers[KEPT_FDS];
    int gifts[KEPT_FDS];
};

struct rec { /* a deferred write */
    uint64_t addr;
    uint32_t length;
    uint32_t offset; /* in the slot's data buffer, or in `wbuf` */
    bool spilled;
};

struct thr {
    bool used, running, held, base_changed, irq_wanted, irq_unsent, swaps;
    uint8_t owes;         /* OWES_*: what it was resumed for instead of guest code */
    bool has_frame;       /* stopped with a signal frame; else in a call from a patched site */
    bool is_patched;      /* GS finds its slot, unless the guest has set GS */
    bool has_result;      /* `result` is to be the call's */
    uint32_t leave_flags; /* RF_STOP or RF_TRAP */
    uint32_t reply;       /* what the slot's is to be */
    bool is_waking;       /* a wake-up is under way */
    bool is_parked;       /* its task has exited: the host thread waits to be another's */
    int unpark;           /* a parked thread that starts when this one goes on, or -1 */
    uint64_t unpark_serial;
    int64_t result;
    bool born;            /* the clone that starts it was let through */
    bool exiting, exited; /* its exit was ordered; was let through */
    bool gone;            /* discarded: no handle any more, the slot stays taken until the host thread is gone */
    int id, prc, slotno, tid, exit_tid, run_pos;
    int hash_next;
    uint64_t serial; /* never reused */
    uint64_t irq_since, held_turn;
    struct slot *slot;
    struct hop *ops;
    int op_count, op_room, sent, matched, round_start;
    uint64_t holds; /* HOLD_*: what its queue, or a reply that it has not answered, relies on (hold.h) */
    int must_match; /* operations before it that are notified have to be let through, or are not done */
    int clone_at;   /* the clone among them, or -1 */
    int doubt;      /* DOUBT_*: it says that a batch with a clone that was let through has failed */
    int doubt_at, doubt_error;
    uint32_t rounds;
    struct rec *recs;
    int rec_count, rec_room, rec_sent;
    char *wbuf;
    size_t wbuf_used, wbuf_room;
    uint32_t data_used;
    int prefetch_count;
    struct copy prefetch[MAX_PREFETCH];
};

enum state { NONE, COMING, USABLE }; /* hold.h */
#define OWES_DONE 1 /* K_DONE, when what is queued is done: no guest code runs before */
#define OWES_STOP 2 /* K_INTERRUPTED behind its call: no other call comes before */
#define DOUBT_ASKED 1  /* it shall make another call: then the clone is over */
#define DOUBT_PROVEN 2 /* there is no child */

struct window { /* a part of a file, mapped beside the slots */
    uint64_t key, base; /* key 0: NONE */
    uint32_t stamp;
    enum state state;
    int owner, op; /* COMING: the thread that is to map it, and the number of the operation in its queue */
};

struct meter { /* how much is read of a file */
    uint64_t key, bytes;
    uint32_t stamp;
};
#define METERS 4

struct kept { /* a descriptor that a guest process has */
    dev_t dev;
    ino_t ino;
    uint32_t stamp;
    enum state state;
    int owner;    /* COMING: the thread with whose operations it comes */
    bool is_open; /* the process may have something under this number, whatever the state */
};

struct hot { /* a file that program after program maps */
    dev_t dev;
    ino_t ino;
    uint32_t count, stamp;
    int fd; /* for the zygote to have; -1: not often enough, or not to be had */
};
#define HOT_FILES 32
#define HOT_COUNT 4 /* injections before it is thought of */
#define HOT_REST 256 /* mappings of such files, until one of them has had its time */

struct prc {
    uint64_t calls; /* system calls that came */
    bool used, dead, kill_wanted;
    int id, pid, region_fd;
    char *region;
    int parent;    /* unborn: the process that will fork it, else -1 */
    int adopting;  /* a child that has been ordered and not yet adopted, or -1 */
    bool forks_blank; /* the zygote: nobody waits for its child */
    bool cloned;   /* ... and its clone was let through */
    int op_thr;    /* the thread with operations outstanding, or -1 */
    uint64_t op_since;
    int next_fd, fork_fd;
    int64_t ident; /* never reused */
    int held_count, rec_threads;
    struct window windows[WINDOWS];
    struct meter meters[METERS];
    uint32_t window_stamp, kept_stamp;
    struct kept kept[KEPT_FDS];
    struct thr *slots[SLOT_COUNT];
    int slot_high;
};

static struct thr **thrs;
static int thr_count, thr_room;
static int *thr_free, thr_free_count, thr_free_room;
static struct prc **prcs;
static int prc_count, prc_room;
static int *prc_free, prc_free_count, prc_free_room;

static int *run_ids;
static volatile uint32_t **run_states;
static int run_count, run_room, run_next;

#define HASH_SIZE 4096
static int tid_hash[HASH_SIZE];

static int epoll_fd = -1, listener = -1, sigchld_fd = -1, info_fd = -1;
static struct info *info;
static uint64_t frame_offset, fp_offset, fp_size; /* of the signal frame in a slot; of its FP state; its size */
static char *pristine;                            /* a zygote's frame: [frame_offset, SLOT_SIZE) */
static bool strict_mode = true;
static bool is_patching; /* set_patching */
static uint64_t spin_ticks, stub_spin_ticks;
static int cpu_count = 1;
static int ops_out;    /* threads with operations outstanding */
static int held_total; /* threads that wait for their process's operations */
static int irq_unsent_total;
static bool has_pwait2 = true;
static uint64_t stat_notif, stat_denied, stat_sleeps, stat_events, stat_moves, stat_liars;

struct event {
    int64_t v[9];
};
static struct event *queue;
static int queue_head, queue_count, queue_room;

static int64_t *fd_tokens;
static int fd_room;
#define NO_TOKEN INT64_MIN
#define READY_MAX 64
static struct {
    int fd;
    uint32_t events;
} ready[READY_MAX];
static int ready_head, ready_count;

static uint64_t bells[64];
static int bell_count;

static int newborn; /* processes that were forked and not yet adopted, without blanks */
static int owing;   /* threads that owe an exit or a proof */

static void set_cloned(struct prc *p, bool cloned)
{
    if (p->cloned && !p->forks_blank)
        newborn--;
    p->cloned = cloned;
    if (cloned && !p->forks_blank)
        newborn++;
}

/* The thread that a clone starts; NULL: its task has ended before, and it shall not be born. */
static struct thr *child_of(const struct hop *h)
{
    struct thr *t = h->child < 0 ? NULL : thrs[h->child];
    return t && t->used && t->serial == h->child_serial ? t : NULL;
}

static uint64_t ticks(void)
{
    return __builtin_ia32_rdtsc();
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static PyObject *fail(int error)
{
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static void *grow(void *array, int *room, int want, size_t size)
{
    if (want <= *room)
        return array;
    int next = *room ? *room : 16;
    while (next < want)
        next *= 2;
    void *bigger = realloc(array, next * size);
    if (!bigger)
        abort(); /* the sentry cannot go on without memory: everything dies (I5) */
    *room = next;
    return bigger;
}

static struct thr *get_thr(PyObject *o)
{
    long id = PyLong_AsLong(o);
    if (id < 0 || id >= thr_count || !thrs[id]->used || thrs[id]->gone) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "no such thread");
        return NULL;
    }
    return thrs[id];
}

static struct prc *get_prc(PyObject *o)
{
    long id = PyLong_AsLong(o);
    if (id < 0 || id >= prc_count || !prcs[id]->used) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "no such process");
        return NULL;
    }
    return prcs[id];
}

static void push_event(int64_t kind, int64_t id, int64_t a, int64_t b)
{
    if (queue_head && queue_head == queue_count)
        queue_head = queue_count = 0;
    queue = grow(queue, &queue_room, queue_count + 1, sizeof *queue);
    queue[queue_count++] = (struct event){{kind, id, a, b}};
}

/* The next free descriptor number for an injection; strictly rotating, so none is reused while in flight. */
static int rotate_fd(struct prc *p)
{
    int fd = p->next_fd++;
    if (p->next_fd > LAST_FD)
        p->next_fd = FIRST_FD;
    return fd;
}

static void hash_add(struct thr *t)
{
    int *bucket = &tid_hash[t->tid & (HASH_SIZE - 1)];
    t->hash_next = *bucket;
    *bucket = t->id + 1;
}

static void hash_remove(struct thr *t)
{
    if (t->tid <= 0)
        return;
    int *link = &tid_hash[t->tid & (HASH_SIZE - 1)];
    while (*link && *link != t->id + 1)
        link = &thrs[*link - 1]->hash_next;
    if (*link)
        *link = t->hash_next;
    t->tid = 0;
}

static struct thr *hash_find(int tid)
{
    for (int i = tid_hash[tid & (HASH_SIZE - 1)]; i; i = thrs[i - 1]->hash_next)
        if (thrs[i - 1]->tid == tid)
            return thrs[i - 1];
    return NULL;
}

/* Stubs may spin while every thread that runs or waits, and the sentry, have a processor of their own. */
static int spin_skip, spin_penalty;
static bool is_sync; /* notifications are answered on one processor: set_sync */

static void update_spin(void)
{
    uint64_t want = spin_penalty >= 4 || run_count + 1 > cpu_count ? 0
                    : run_count + 2 <= cpu_count                    ? stub_spin_ticks
                                                                    : stub_spin_ticks / 4;
    if (info->spin_ticks != want)
        info->spin_ticks = want;
}

static void run_add(struct thr *t)
{
    if (t->running)
        return;
    t->running = true;
    int room = run_room;
    run_ids = grow(run_ids, &room, run_count + 1, sizeof *run_ids);
    run_states = grow(run_states, &run_room, run_count + 1, sizeof *run_states);
    t->run_pos = run_count;
    run_ids[run_count] = t->id;
    run_states[run_count++] = &t->slot->state;
}

static void run_remove(struct thr *t)
{
    if (!t->running)
        return;
    t->running = false;
    int last = --run_count;
    run_ids[t->run_pos] = run_ids[last];
    run_states[t->run_pos] = run_states[last];
    thrs[run_ids[t->run_pos]]->run_pos = t->run_pos;
}

/* ---- creation ---- */

static uint64_t serials; /* of threads */

static int spare_fd = -1; /* a region for the next process, made when there was time */
static char *spare_region;
static bool spare_used; /* there was one, or should have been */

/* A region: its descriptor, or -1 and errno. */
static int make_region(char **region)
{
    int fd = memfd_create("cloche-region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    *region = MAP_FAILED;
    if (ftruncate(fd, REGION_SIZE) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        *region = mmap(NULL, REGION_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (*region == MAP_FAILED) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* There is time: have the next process's region ready, with the pages that its first thread needs at once. */
static void make_spare(void)
{
    spare_used = false;
    if (spare_fd >= 0)
        return;
    spare_fd = make_region(&spare_region);
    if (spare_fd < 0)
        return;
    *(volatile char *)spare_region = 0;
    for (uint64_t at = frame_offset & ~4095ULL; frame_offset && at < SLOT_SIZE; at += 4096)
        *(volatile char *)(spare_region + at) = 0;
}

static struct prc *new_prc(void)
{
    struct prc *p;
    char *region = spare_region;
    int region_fd = spare_fd;
    if (region_fd < 0)
        region_fd = make_region(&region);
    if (region_fd < 0)
        return NULL;
    spare_fd = -1;
    spare_used = true;
    if (prc_free_count) {
        p = prcs[prc_free[--prc_free_count]];
    } else {
        prcs = grow(prcs, &prc_room, prc_count + 1, sizeof *prcs);
        p = calloc(1, sizeof *p);
        if (!p)
            abort();
        p->id = prc_count;
        prcs[prc_count++] = p;
    }
    int id = p->id;
    memset(p, 0, sizeof *p);
    p->id = id;
    static int64_t idents;
    p->used = true;
    p->ident = ++idents;
    p->region_fd = region_fd;
    p->region = region;
    p->parent = p->adopting = p->op_thr = -1;
    p->next_fd = FIRST_FD;
    return p;
}

static struct thr *new_thr(struct prc *p, int slotno)
{
    struct thr *t;
    if (thr_free_count) {
        t = thrs[thr_free[--thr_free_count]];
    } else {
        thrs = grow(thrs, &thr_room, thr_count + 1, sizeof *thrs);
        t = calloc(1, sizeof *t);
        if (!t)
            abort();
        t->id = thr_count;
        thrs[thr_count++] = t;
    }
    struct thr keep = *t;
    memset(t, 0, sizeof *t);
    t->id = keep.id;
    t->ops = keep.ops, t->op_room = keep.op_room;
    t->recs = keep.recs, t->rec_room = keep.rec_room;
    t->wbuf = keep.wbuf, t->wbuf_room = keep.wbuf_room;
    t->used = true;
    t->serial = ++serials;
    t->unpark = t->clone_at = -1;
    t->prc = p->id;
    t->slotno = slotno;
    t->slot = (struct slot *)(p->region + slotno * SLOT_SIZE);
    t->slot->state = ST_REQUEST;
    t->slot->ops_done = 0;
    t->slot->tid = 0;
    t->slot->bell = t->id % BELLS;
    p->slots[slotno] = t;
    if (slotno >= p->slot_high)
        p->slot_high = slotno + 1;
    return t;
}

static char *frame_of(struct thr *t)
{
    return (char *)t->slot + frame_offset;
}

static uint64_t *regs_of(struct thr *t)
{
    return (uint64_t *)(frame_of(t) + UC_OFFSET + REGS_OFFSET);
}

/* GS as the guest has set it: what finds the slot is ours.  Forged values that no thread can have count as 0: what is
 * read can always be set again. */
static uint64_t guest_gs(struct thr *t)
{
    uint64_t gs = READ_ONCE(t->slot->gs_base);
    return gs >> 47 || gs == REGION_BASE + t->slotno * SLOT_SIZE ? 0 : gs;
}

/* Prepare the slot of a thread that does not exist yet: the frame it will start from. */
static void fill_frame(struct thr *t, struct thr *from)
{
    char *frame = frame_of(t);
    memcpy(frame, from ? frame_of(from) : pristine, SLOT_SIZE - frame_offset);
    /* What a hostile parent may have written there must not matter to a kernel that reads the frame: pointers. */
    uint64_t base = REGION_BASE + t->slotno * SLOT_SIZE;
    *(uint64_t *)(frame + UC_OFFSET + 16) = base + STACK_OFFSET;
    *(uint64_t *)(frame + UC_OFFSET + 24) = 0;
    *(uint64_t *)(frame + UC_OFFSET + 32) = STACK_SIZE;
    *(uint64_t *)(frame + UC_OFFSET + FPPTR_OFFSET) = base + fp_offset;
    *(uint64_t *)(frame + UC_OFFSET + SIGMASK_OFFSET) = 0;
    memcpy(frame, pristine, 8);
    if (from) {
        regs_of(t)[RAX_INDEX] = 0;
        t->slot->fs_base = from->slot->fs_base;
        t->slot->gs_base = guest_gs(from);
        t->is_patched = from->is_patched;
    } else {
        t->slot->fs_base = t->slot->gs_base = 0;
        t->is_patched = is_patching;
    }
    t->slot->interrupted = t->slot->can_answer = 0;
    t->base_changed = true;
    t->has_frame = true;
    t->has_result = false;
}

static void prepare_frame(struct thr *t, struct thr *from)
{
    fill_frame(t, from);
    t->slot->reply = 0;
    t->slot->state = ST_REQUEST;
}

/* ---- rounds: sending what was queued ---- */

static bool ops_pending(struct prc *p)
{
    if (p->adopting >= 0)
        return true;
    if (p->op_thr < 0)
        return false;
    struct thr *t = thrs[p->op_thr];
    /* Of what is notified we know whether it was let through; of the rest, which harms nobody, the guest's word does. */
    if (t->running &&
        (t->matched < t->must_match || t->sent < t->op_count || READ_ONCE(t->slot->ops_done) != t->rounds))
        return true;
    p->op_thr = -1;
    ops_out--;
    return false;
}

#include "hold.h"

static void close_gifts(struct hop *h)
{
    while (h->gift_count)
        close(h->gifts[--h->gift_count]);
}

/* Close our duplicates of descriptors in an operation that was carried out, or will not be. */
static void close_duplicates(struct hop *h)
{
    close_gifts(h);
    if (h->fd >= 0) {
        close(h->fd);
        h->fd = -1;
    }
}

/* The thread has come back from what was ordered, or is gone. */
static void clear_queue(struct thr *t)
{
    if (t->holds & OWNS_COMING)
        settle(t);
    t->holds = 0;
    for (int i = t->matched; i < t->op_count; i++)
        close_duplicates(&t->ops[i]); /* the guest has skipped them */
    t->op_count = t->sent = t->matched = t->round_start = t->must_match = 0;
    t->clone_at = -1;
    if (t->rec_count)
        prcs[t->prc]->rec_threads--;
    t->rec_count = t->rec_sent = 0;
    t->wbuf_used = 0;
    t->data_used = 0;
}

/* Give up operations, those from `from` on were not carried out: stop unborn children. */
static void drop_ops(struct thr *t, int from)
{
    for (int i = 0; i < t->op_count; i++) {
        close_duplicates(&t->ops[i]);
        struct thr *child = child_of(&t->ops[i]);
        if (i >= from && child)
            run_remove(child);
    }
}

/* ---- waking ----
 *
 * A thread that is woken from here starts on whatever processor the host thinks best, perhaps ours.  So if another
 * guest thread is about to get a reply and spins for it, that one wakes the sleeper: there the two run in turn, as they
 * would without us.  For this a reply is held back until the next event is asked for, or the next thread resumed.
 * A guest that does not do as it is told delays others only until `check_delegated`.
 */

static struct thr *deferred; /* the reply that is held back */
static int deferred_wakes[MAX_WAKES], deferred_wake_count;
static int *delegated, delegated_count, delegated_room; /* threads that guests were asked to wake */

static void ring_bell(struct thr *t)
{
    syscall(SYS_futex, &info->bells[t->id % BELLS], 1 /* FUTEX_WAKE */, INT32_MAX, NULL, NULL, 0); /* a dying thread may have had the same bell */
}

static void wake(struct thr *t)
{
    uint32_t old = __atomic_exchange_n(&t->slot->state, ST_REPLY, __ATOMIC_SEQ_CST);
    run_add(t);
    if (old != ST_SLEEPING)
        return;
    __atomic_fetch_add(&info->bells[t->id % BELLS], 1, __ATOMIC_SEQ_CST);
    t->is_waking = true;
    if (deferred && deferred != t && deferred_wake_count < MAX_WAKES)
        deferred_wakes[deferred_wake_count++] = t->id;
    else
        ring_bell(t);
}

/* Wake those that a guest was to wake and did not. */
static void check_delegated(void)
{
    while (delegated_count) {
        struct thr *t = thrs[delegated[--delegated_count]];
        if (t->used && READ_ONCE(t->slot->state) == ST_REPLY)
            ring_bell(t);
    }
}

static void send_reply_word(struct thr *t)
{
    if (t->reply & RF_RESULT)
        t->slot->result = t->result;
    t->slot->reply = t->reply;
    wake(t);
}

static void flush_deferred(void)
{
    struct thr *t = deferred;
    if (!t)
        return;
    deferred = NULL;
    int count = deferred_wake_count;
    deferred_wake_count = 0;
    if (count && READ_ONCE(t->slot->state) == ST_REQUEST) {
        struct slot *s = t->slot;
        for (int i = 0; i < MAX_WAKES; i++)
            s->wakes[i] = i < count ? (uint32_t)deferred_wakes[i] % BELLS : NO_BELL;
        t->reply |= RF_WAKE;
        delegated = grow(delegated, &delegated_room, delegated_count + count, sizeof *delegated);
        for (int i = 0; i < count; i++)
            delegated[delegated_count++] = deferred_wakes[i];
    } else {
        for (int i = 0; i < count; i++)
            if (thrs[deferred_wakes[i]]->used)
                ring_bell(thrs[deferred_wakes[i]]);
    }
    send_reply_word(t);
}

/* The thread is going: its reply is of no use to anybody, but others may wait for its wake-ups. */
static void drop_deferred(struct thr *t)
{
    if (deferred != t)
        return;
    deferred = NULL;
    while (deferred_wake_count)
        ring_bell(thrs[deferred_wakes[--deferred_wake_count]]);
}

static void start_running(struct thr *t);

static bool may_defer; /* this round's reply */

/* Send the next round of operations and writes. */
static void send_round(struct thr *t)
{
    struct slot *s = t->slot;
    struct prc *p = prcs[t->prc];
    uint32_t flags = 0;
    int n = t->op_count - t->sent;
    if (n > MAX_OPS)
        n = MAX_OPS;
    t->round_start = t->sent;
    for (int i = t->sent; i < t->sent + n; i++) {
        struct hop *h = &t->ops[i];
        struct thr *child = child_of(h);
        if (h->child >= 0 && !child) {
            h->op = (struct op){SYS_close, {-1}, 0}; /* killed before its birth */
            h->notified = false;
        }
        s->ops[i - t->sent] = h->op;
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
            start_running(child);
    }
    t->sent += n;
    if (n) {
        s->ring = p->held_count > 0;
        t->rounds++;
        if (p->op_thr != t->id) {
            p->op_thr = t->id;
            p->op_since = now_ns();
            ops_out++;
        }
    }
    int copies = 0;
    if (t->sent == t->op_count) {
        uint32_t used = t->rec_sent ? 0 : t->data_used;
        while (t->rec_sent < t->rec_count && copies < MAX_COPIES) {
            struct rec *r = &t->recs[t->rec_sent];
            uint32_t length = r->length;
            if (r->spilled) {
                uint32_t room = DATA_SIZE - used;
                if (!room)
                    break;
                if (length > room)
                    length = room;
                memcpy((char *)s + DATA_OFFSET + used, t->wbuf + r->offset, length);
                s->copies[copies++] = (struct copy){r->addr, length, used};
                used += length;
                if (length < r->length) {
                    r->addr += length;
                    r->offset += length;
                    r->length -= length;
                    break;
                }
            } else {
                s->copies[copies++] = (struct copy){r->addr, length, r->offset};
            }
            t->rec_sent++;
        }
    }
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
                s->gs_base = REGION_BASE + t->slotno * SLOT_SIZE;
        }
        if (t->has_result)
            flags |= RF_RESULT;
        flags |= t->leave_flags;
        t->leave_flags = 0;
    }
    t->reply = flags | (uint32_t)n << 16 | (uint32_t)copies << 24;
    if (is_last && t->rec_count) {
        p->rec_threads--;
        t->rec_count = t->rec_sent = 0;
        t->wbuf_used = 0;
        t->data_used = 0;
    }
    struct thr *renewed = is_last && t->unpark >= 0 ? thrs[t->unpark] : NULL;
    if (renewed && (!renewed->used || renewed->serial != t->unpark_serial || renewed->running || renewed->held ||
                    renewed->is_parked))
        renewed = NULL; /* its task has ended before it began */
    if (is_last)
        t->unpark = -1;
    if (may_defer && !n && is_last && !deferred) {
        deferred = t;
        run_add(t);
    } else {
        send_reply_word(t);
    }
    if (renewed)
        start_running(renewed);
}

static void start_running(struct thr *t)
{
    struct prc *p = prcs[t->prc];
    if (p->dead)
        return;
    if (t->op_count && (p->held_count || ops_pending(p))) {
        /* One address space, one outstanding batch, in the order of resumption: the kernel may have given this
         * thread a place that a waiting thread's munmap is yet to free. */
        static uint64_t turns;
        t->held = true;
        t->held_turn = ++turns;
        p->held_count++;
        held_total++;
        if (p->op_thr >= 0) {
            thrs[p->op_thr]->slot->ring = 1;
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
        }
        return;
    }
    send_round(t);
}

static void release_held(void)
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
        first->held = false;
        p->held_count--;
        held_total--;
        send_round(first);
    }
}

/* ---- memory ---- */

static bool flush_window(struct prc *p, const struct rec *r);

static bool guest_range(uint64_t addr, uint64_t length)
{
    return addr < MAX_ADDRESS && length <= MAX_ADDRESS - addr;
}

static bool readable_range(uint64_t addr, uint64_t length)
{
    return guest_range(addr, length) ||
           (addr >= VDSO_BASE && addr < VDSO_BASE + VDSO_SIZE && length <= VDSO_BASE + VDSO_SIZE - addr);
}

static ssize_t vm_read(struct prc *p, void *to, uint64_t addr, size_t length)
{
    if (p->pid <= 0 || p->dead || !readable_range(addr, length))
        return -EFAULT;
    struct iovec local = {to, length}, remote = {(void *)addr, length};
    ssize_t n = process_vm_readv(p->pid, &local, 1, &remote, 1, 0);
    return n < 0 ? -errno : n;
}

static ssize_t vm_write(struct prc *p, const void *from, uint64_t addr, size_t length)
{
    if (p->pid <= 0 || p->dead || !guest_range(addr, length))
        return -EFAULT;
    struct iovec local = {(void *)from, length}, remote = {(void *)addr, length};
    ssize_t n = process_vm_writev(p->pid, &local, 1, &remote, 1, 0);
    return n < 0 ? -errno : n;
}

/* Carry out the deferred writes of one stopped thread now, unless they wait for operations. */
static void flush_thr(struct thr *t)
{
    if (!t->rec_count || t->op_count || t->running || t->held)
        return;
    bool fault = false;
    for (int i = 0; i < t->rec_count; i++) {
        struct rec *r = &t->recs[i];
        if (!r->spilled && r->offset & FROM_WINDOW) {
            fault |= !flush_window(prcs[t->prc], r);
            continue;
        }
        char *from = r->spilled ? t->wbuf + r->offset : (char *)t->slot + DATA_OFFSET + r->offset;
        if (vm_write(prcs[t->prc], from, r->addr, r->length) != (ssize_t)r->length)
            fault = true;
    }
    if (fault) /* keep them: the stub's copy faults again and gives -EFAULT */
        return;
    prcs[t->prc]->rec_threads--;
    t->rec_count = 0;
    t->wbuf_used = 0;
    t->data_used = 0;
    for (int i = 0; i < t->prefetch_count; i++) {
        uint32_t end = t->prefetch[i].offset + t->prefetch[i].length;
        if (end > t->data_used)
            t->data_used = end;
    }
    t->data_used = (t->data_used + 15) & ~15u;
}

static void flush_prc(struct prc *p)
{
    for (int i = 0; i < p->slot_high && p->rec_threads; i++)
        if (p->slots[i])
            flush_thr(p->slots[i]);
}

static struct rec *add_rec(struct thr *t)
{
    t->recs = grow(t->recs, &t->rec_room, t->rec_count + 1, sizeof *t->recs);
    if (!t->rec_count)
        prcs[t->prc]->rec_threads++;
    return &t->recs[t->rec_count++];
}

/* Defer a write until the thread runs.  `data` NULL: the caller fills the returned place in the slot. */
static char *defer(struct thr *t, uint64_t addr, const char *data, size_t length)
{
    bool fits = !t->wbuf_used && t->data_used + length <= DATA_SIZE && t->rec_count < MAX_COPIES;
    if (!fits && !data)
        return NULL;
    struct rec *r = add_rec(t);
    r->addr = addr;
    r->length = length;
    r->spilled = !fits;
    if (fits) {
        char *to = (char *)t->slot + DATA_OFFSET + t->data_used;
        r->offset = t->data_used;
        t->data_used += (length + 15) & ~15u;
        if (t->data_used > DATA_SIZE)
            t->data_used = DATA_SIZE;
        if (data)
            memcpy(to, data, length);
        return to;
    }
    if (t->wbuf_used + length > t->wbuf_room) {
        size_t room = (t->wbuf_used + length) * 2;
        char *bigger = realloc(t->wbuf, room);
        if (!bigger)
            abort();
        t->wbuf = bigger;
        t->wbuf_room = room;
    }
    r->offset = t->wbuf_used;
    memcpy(t->wbuf + t->wbuf_used, data, length);
    t->wbuf_used += length;
    return t->wbuf + r->offset;
}

static struct hop *add_op(struct thr *t)
{
    t->ops = grow(t->ops, &t->op_room, t->op_count + 1, sizeof *t->ops);
    struct hop *h = &t->ops[t->op_count++];
    memset(h, 0, sizeof *h);
    h->fd = h->child = -1;
    return h;
}

#include "proof.h"
#include "keep.h"
#include "window.h"
#include "notify.h"
#include "events.h"
#include "module.h"
