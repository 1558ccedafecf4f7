/* Replies and wake-ups.
 *
 * The host chooses the processor on which a thread that is woken from here starts, perhaps the sentry's. So if
 * another guest thread is about to get a reply and spins for it, that one wakes the sleeper: there the two run in
 * turn, as they would without a sentry. For this a reply is *deferred* until the next event is asked for, or the next
 * thread resumed. A guest that does not wake them delays them only until `check_delegated`.
 *
 * The state of a slot, and who changes it:
 *
 *     ST_GUEST/ST_REPLY --stub: post--> ST_REQUEST --sentry: send_reply--> ST_REPLY --stub reads `reply`-->
 *                                        |      ^  |
 *                  sentry: wait_long |          |  | stub: has spun long enough
 *                                        v      |  v
 *                                     ST_WAIT --> ST_SLEEPING --sentry: send_reply, bell--> ST_REPLY --> ST_GUEST
 */
#include "parts.h"

static struct thr *deferred; /* the reply that is held back */
static struct thr *deferred_wakes[MAX_WAKES];
static int deferred_wake_count;
static struct thr **delegated; /* threads that guests were asked to wake */
static int delegated_count, delegated_room;

static void ring_bell(struct thr *t)
{
    /* Wake all that wait there: a dying thread may have had the same bell. */
    syscall(SYS_futex, &info->bells[t->id % BELLS], 1 /* FUTEX_WAKE */, INT32_MAX, NULL, NULL, 0);
}

/* Give a stopped thread its reply: the slot's request is answered. */
void send_reply(struct thr *t, uint32_t reply)
{
    if (reply & RF_RESULT)
        t->slot->result = t->result;
    t->slot->reply = reply;
    uint32_t old = __atomic_exchange_n(&t->slot->state, ST_REPLY, __ATOMIC_SEQ_CST);
    run_add(t);
    t->is_waking = old == ST_SLEEPING; /* not for ever: of a reply for which it spins nobody sees that it is read */
    if (!t->is_waking)
        return;
    __atomic_fetch_add(&info->bells[t->id % BELLS], 1, __ATOMIC_SEQ_CST);
    if (deferred && deferred != t && deferred_wake_count < MAX_WAKES)
        deferred_wakes[deferred_wake_count++] = t;
    else
        ring_bell(t);
}

/* Hold the reply back, to have the thread wake others; false: another reply is held back already. */
bool defer_reply(struct thr *t, uint32_t reply)
{
    if (deferred)
        return false;
    deferred = t;
    t->reply = reply;
    run_add(t);
    return true;
}

bool is_deferring(void)
{
    return deferred != NULL;
}

void flush_deferred(void)
{
    struct thr *t = deferred;
    if (!t)
        return;
    deferred = NULL;
    int count = deferred_wake_count;
    deferred_wake_count = 0;
    bool may_ask = count && READ_ONCE(t->slot->state) == ST_REQUEST; /* it spins */
    for (int i = 0; may_ask && i < MAX_WAKES; i++)
        t->slot->wakes[i] = i < count ? (uint32_t)deferred_wakes[i]->id % BELLS : NO_BELL;
    for (int i = 0; i < count; i++) {
        if (!may_ask) {
            if (deferred_wakes[i]->used)
                ring_bell(deferred_wakes[i]);
            continue;
        }
        delegated = grow(delegated, &delegated_room, delegated_count + 1, sizeof *delegated);
        delegated[delegated_count++] = deferred_wakes[i];
    }
    send_reply(t, t->reply | (may_ask ? RF_WAKE : 0));
}

/* The thread ends: its reply is not needed, but others may wait for the wake-ups in it. */
void drop_deferred(struct thr *t)
{
    if (deferred != t)
        return;
    deferred = NULL;
    while (deferred_wake_count)
        ring_bell(deferred_wakes[--deferred_wake_count]);
}

/* Wake the threads that a guest was to wake and did not. */
void check_delegated(void)
{
    while (delegated_count) {
        struct thr *t = delegated[--delegated_count];
        if (t->used && READ_ONCE(t->slot->state) == ST_REPLY)
            ring_bell(t);
    }
}

/* Whether a guest that was woken does not run yet. */
bool is_somebody_waking(void)
{
    for (int i = 0; i < run_count; i++) {
        struct thr *t = runs[i].thr;
        if (t->is_waking && *runs[i].state == ST_REPLY)
            return true;
        t->is_waking = false;
    }
    return false;
}

/* A thread that will not be answered soon need not spin. */
void wait_long(struct thr *t)
{
    uint32_t expected = ST_REQUEST;
    if (is_running(t))
        return;
    __atomic_compare_exchange_n(&t->slot->state, &expected, ST_WAIT, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
