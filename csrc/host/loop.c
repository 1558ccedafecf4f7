/* The event loop: find what guests posted, notifications, deaths, and readiness of the sentry's descriptors. */
#include "parts.h"

#define FAIR_TURN 8      /* calls that may be taken in a row while a descriptor or a death waits */
#define OWING_TURN 4096  /* times the sentry's spin, half a second */
#define READY_MAX 64
#define SECOND_NS 1000000000

int irq_unsent_total;

static struct event *queue;
static int queue_head, queue_count, queue_room;
static uint64_t last_poll, last_owing;

/* Of no thread. */
struct event *push_event(int64_t kind, int64_t what, int64_t status)
{
    if (queue_head && queue_head == queue_count)
        queue_head = queue_count = 0;
    queue = grow(queue, &queue_room, queue_count + 1, sizeof *queue);
    struct event *e = &queue[queue_count++];
    *e = (struct event){{kind, -1, what, status}};
    return e;
}

/* ---- the meter of I8: how long the caller keeps the loop between two looks ----
 *
 * `left_at` is when it was last let go, from readings of the clock that are made anyway. */

static uint64_t left_at, held_ticks = UINT64_MAX; /* the limit */

/* Report as EV_STALL when more ticks than this pass from a return of wait_event, or from now, to its next call. */
void set_meter(uint64_t limit)
{
    held_ticks = limit;
    left_at = ticks_now();
}

/* ---- looking ---- */

bool scan(struct event *e)
{
    static int next;
    for (int i = 0; i < run_count; i++) {
        if (next >= run_count)
            next = 0;
        struct running *r = &runs[next++];
        uint32_t state = *r->state;
        if (state != ST_REQUEST && state != ST_SLEEPING)
            continue;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (take(r->thr, e))
            return true;
    }
    return false;
}

/* Make room for more: reports stay until they are taken, because an edge comes only once. */
static int ready_room(void)
{
    int queued = queue_count - queue_head;
    return queued < READY_MAX ? READY_MAX - queued : 0;
}

/* `n` is at most ready_room(). */
static void handle_ready(struct epoll_event *events, int n)
{
    bool notified = false;
    for (int i = 0; i < n; i++) {
        uint64_t tag = events[i].data.u64;
        if (tag == TAG_LISTENER)
            notified = true;
        else
            push_event(EV_FD, (int64_t)tag, events[i].events);
    }
    if (notified)
        handle_notifications();
}

/* Look without waiting; whether there was anything. */
bool poll_now(void)
{
    struct epoll_event events[READY_MAX];
    int room = ready_room();
    int n = room ? epoll_wait(epoll_fd, events, room, 0) : 0;
    handle_ready(events, n);
    return n > 0;
}

bool take_queued(struct event *e)
{
    if (queue_head == queue_count)
        return false;
    *e = queue[queue_head++];
    return true;
}

/* ---- interrupts ---- */

static bool send_interrupt(struct thr *t)
{
    int tid = (int)thread_tid(t);
    return tid && syscall(SYS_tgkill, t->prc->pid, tid, INTERRUPT_SIGNAL) == 0;
}

static void retry_interrupts(void)
{
    for (int i = 0; i < run_count && irq_unsent_total; i++) {
        struct thr *t = runs[i].thr;
        if (t->irq_unsent && (!t->irq_wanted || send_interrupt(t))) {
            t->irq_unsent = false;
            irq_unsent_total--;
        }
    }
}

void interrupt(struct thr *t)
{
    if (!is_running(t))
        return;
    if (!t->irq_wanted)
        t->irq_since = now_ns();
    t->irq_wanted = true;
    if (!send_interrupt(t) && !t->irq_unsent) {
        t->irq_unsent = true;
        irq_unsent_total++;
    }
}

/* ---- waiting ---- */

static int wait_ready(struct epoll_event *events, int room, int64_t timeout_ns)
{
    struct pollfd any = {epoll_fd, POLLIN, 0};
    struct timespec t = {timeout_ns / SECOND_NS, timeout_ns % SECOND_NS};
    int n = ppoll(&any, 1, timeout_ns < 0 ? NULL : &t, NULL); /* in nanoseconds, which epoll_wait cannot */
    return n > 0 ? epoll_wait(epoll_fd, events, room, 0) : n;
}

static bool is_anybody_owing(void)
{
    return owing + newborn + orphan_count > 0;
}

/* How long to sleep at most, negative: for ever. */
static int64_t sleep_time(int64_t deadline)
{
    int64_t now = (int64_t)now_ns(), left = deadline < 0 ? -1 : deadline > now ? deadline - now : 0;
    if (is_anybody_owing() && (left < 0 || left > SECOND_NS))
        left = SECOND_NS;
    if (irq_unsent_total && (left < 0 || left > SECOND_NS / 1000))
        left = SECOND_NS / 1000;
    return left;
}

/* Announce the sleep, look once more, sleep.  1: an event, 0: look again, -1: a Python exception. */
static int sleep_once(struct event *e, int64_t deadline)
{
    struct epoll_event events[READY_MAX];
    flush_bells();
    check_delegated();
    __atomic_store_n(&info->asleep, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (scan(e)) {
        info->asleep = 0;
        return 1;
    }
    if (held_total)
        release_held();
    int64_t left = sleep_time(deadline);
    int n, room = ready_room();
    uint64_t began = ticks_now();
    Py_BEGIN_ALLOW_THREADS n = wait_ready(events, room, left);
    Py_END_ALLOW_THREADS
    info->asleep = 0;
    last_poll = left_at = ticks_now();
    if (n < 0 && errno == EINTR)
        return PyErr_CheckSignals();
    handle_ready(events, n);
    if (n > 0)
        slept(left_at - began);
    if (n <= 0 && is_anybody_owing())
        push_event(EV_OWING, 0, 0);
    return scan(e) || take_queued(e);
}

/* 1: an event; 0: the time is over; -1: a Python exception (a signal handler raised).  Waits for `timeout_ns`, or if that
 * is negative until `deadline` (negative: for ever), or for A_MOMENT, where a guest may call at once; no clock is read
 * while there are events. */
static int next_event(struct event *e, int64_t timeout_ns, int64_t deadline)
{
    static int in_a_row;
    if (timeout_ns > 0)
        deadline = (int64_t)now_ns() + timeout_ns;
    flush_deferred();
    flush_bells();
    uint64_t now = ticks_now(), passed = now - left_at;
    left_at = now;
    if (passed > held_ticks) {
        *e = (struct event){{EV_STALL, -2, 0, 0, (int64_t)passed}};
        return 1;
    }
    if (ops_out || now - last_poll > spin_ticks) {
        last_poll = now;
        check_delegated();
        poll_now();
        if (is_anybody_owing() && now - last_owing > OWING_TURN * spin_ticks) {
            last_owing = now;
            push_event(EV_OWING, 0, 0);
        }
    }
    if (queue_head < queue_count && ++in_a_row >= FAIR_TURN) {
        in_a_row = 0; /* the guests' calls may never end */
        return take_queued(e);
    }
    for (;;) {
        if (held_total)
            release_held();
        if (irq_unsent_total)
            retry_interrupts();
        if (scan(e) || take_queued(e))
            return 1;
        bool moment = timeout_ns == (int64_t)A_MOMENT;
        if (timeout_ns != 0 && spin_worth()) {
            bool found = spin(e, moment);
            left_at = ticks_now();
            if (found)
                return 1;
            if (deadline >= 0 && (int64_t)now_ns() >= deadline)
                return 0;
        }
        if (timeout_ns == 0 || moment)
            return poll_now() && (scan(e) || take_queued(e));
        int found = sleep_once(e, deadline);
        if (found)
            return found;
        if (deadline >= 0 && (int64_t)now_ns() >= deadline)
            return 0;
    }
}

/* ---- system calls in the fields of an object ----
 *
 * A tuple of nine integers costs a tenth of a short call.  mypyc keeps the integers of a class one behind the other: one
 * that fits into 63 bits is shifted by one, another is an object's address with the lowest bit set.
 */
static PyObject *teller;
static uint64_t *told; /* CALL_WORDS fields of it */

PyObject *words_of(PyObject *object) /* the object's words, for Python to check the layout of its fields */
{
    return PyBytes_FromStringAndSize((const char *)object, Py_TYPE(object)->tp_basicsize);
}

void tell_calls_in(PyObject *call, uint64_t offset) /* of its fields; 0: calls are told in tuples */
{
    Py_XSETREF(teller, offset ? Py_NewRef(call) : NULL);
    told = (uint64_t *)((char *)call + offset);
}

static bool tell(uint64_t *word, int64_t value)
{
    int64_t shifted;
    if (__builtin_mul_overflow(value, 2, &shifted)) {
        PyObject *is_long = PyLong_FromLongLong(value);
        if (!is_long)
            return false;
        shifted = (intptr_t)is_long | 1;
    }
    if (*word & 1)
        Py_DECREF((PyObject *)(*word & ~1ULL));
    *word = (uint64_t)shifted;
    return true;
}

/* In ns of CLOCK_MONOTONIC -> 9 integers, or None; of a system call that was told in an object only its thread. */
PyObject *wait_event(int64_t timeout_ns, int64_t deadline)
{
    struct event e = {0};
    int got = next_event(&e, timeout_ns, deadline);
    if (got <= 0)
        return got < 0 ? NULL : Py_NewRef(Py_None);
    if (teller && e.v[0] == EV_SYSCALL) {
        for (int i = 0; i < CALL_WORDS; i++)
            if (!tell(&told[i], e.v[2 + i]))
                return NULL;
        return PyLong_FromLongLong(e.v[1]);
    }
    PyObject *tuple = PyTuple_New(9);
    for (int i = 0; tuple && i < 9; i++)
        PyTuple_SET_ITEM(tuple, i, PyLong_FromLongLong(e.v[i]));
    return tuple;
}
