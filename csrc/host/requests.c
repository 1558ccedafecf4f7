/* Requests that guests post in slots: each becomes an event, or is answered here.
 *
 * A guest's report about operations can only end its own process, fail its own call or repeat it; a report that is
 * not allowed is detected before anything changes.
 */
#include "parts.h"

#define LAST_ERRNO 133 /* EHWPOISON */

/* Whether the thread cannot post such a request now. */
static bool is_lie(const struct thr *t, uint32_t kind)
{
    if (t->gone || (t->doubt && (kind != K_MORE || t->doubt != DOUBT_PROVEN)))
        return true;
    if (kind == K_OPS_FAILED)
        return !t->op_count;
    /* Operations that make or end threads were ordered and not let through. */
    if (t->matched < t->must_match && (t->exiting || t->clone_at >= t->matched))
        return true;
    /* Its task waits in a call, and would be in two at once. */
    if (t->owes == OWES_STOP)
        return kind == K_SYSCALL || kind == K_CALL;
    return t->owes && kind != K_MORE && !(kind == K_CUT && t->holds & HOLD_WINDOWS);
}

/* The guest reports that a batch failed after its clone was let through. Have it make another call: then the clone is
 * over, and the host shows whether there is a child (`prove`). */
static void ask_for_proof(struct thr *t, int at, int error)
{
    t->doubt = DOUBT_ASKED;
    t->doubt_at = at;
    t->doubt_error = error;
    t->irq_since = t->irq_wanted ? t->irq_since : now_ns();
    owing++;
    t->slot->ops[0] = (struct op){SYS_munmap, {MAX_ADDRESS, 4096}, 0}; /* never mapped */
    send_reply(t, RF_MORE | 1 << 16);
}

/* An operation of the batch has failed; a clone in it that was let through has been proven to have no child. */
static void fail_batch(struct thr *t, struct event *e, int at, int error)
{
    if (at >= t->op_count)
        at = t->op_count - 1;
    struct hop *clone = t->clone_at < 0 ? NULL : &t->ops[t->clone_at];
    struct thr *born = clone ? child_of(clone) : NULL;
    if (clone && !(clone->op.args[0] & CLONE_VM) && adopts(t->prc, clone)) {
        struct prc *child = end_adoption(t->prc);
        if (child->kill_wanted)
            forget_process(child, SIGKILL, NULL, 0);
    } else if (born) {
        born->born = false;
        run_remove(born);
    }
    *e = (struct event){{EV_OPS_FAILED, t->id, at, error > 0 && error <= LAST_ERRNO ? error : EPERM}};
    t->rounds = READ_ONCE(t->slot->ops_done);
    fail_shared(t, at);
    drop_ops(t, at);
    clear_queue(t);
    t->holds = AVOID_WINDOWS; /* the operation that failed may have mapped one */
}

static void take_call(struct thr *t, struct event *e, int64_t sysno)
{
    struct slot *s = t->slot;
    e->v[0] = EV_SYSCALL;
    e->v[1] = t->id;
    e->v[2] = sysno;
    t->prc->calls++;
    for (int i = 0; i < 6; i++)
        e->v[3 + i] = READ_ONCE(s->args[i]);
    uint32_t count = READ_ONCE(s->prefetch_count), used = 0;
    for (uint32_t i = 0; i < count && i < MAX_PREFETCH; i++) {
        struct copy c = s->prefetch[i];
        __asm__ volatile("" ::: "memory");
        if (c.offset > DATA_SIZE / 2 || c.length > DATA_SIZE / 2 || !c.length)
            continue;
        if (c.offset + c.length > used)
            used = c.offset + c.length;
        t->prefetch[t->prefetch_count++] = c;
    }
    clear_queue(t);
    t->data_used = (used + 15) & ~15u;
}

/* Also for a forged kind: the values are then the guest's own nonsense. */
static void take_fault(struct thr *t, struct event *e)
{
    struct slot *s = t->slot;
    int signo = READ_ONCE(s->signo);
    t->has_frame = true;
    t->has_result = false;
    uint64_t *regs = regs_of(t); /* behind the registers: error code, number of the trap */
    *e = (struct event){{EV_FAULT, t->id, signo > 0 && signo <= 64 ? signo : SIGSEGV, READ_ONCE(s->code),
                         (int64_t)READ_ONCE(s->addr), READ_ONCE(regs[20]) & 0xff, READ_ONCE(regs[19]) & 0xffffffff}};
    clear_queue(t);
}

/* Make an event of a request. False: there is no event for the caller. */
bool take(struct thr *t, struct event *e)
{
    struct slot *s = t->slot;
    struct prc *p = t->prc;
    uint32_t kind = READ_ONCE(s->kind);
    int64_t sysno = READ_ONCE(s->sysno);
    keep_apart(kind >> 16);
    kind &= 0xffff;
    if (is_lie(t, kind)) {
        run_remove(t);
        end_liar(p);
        return false;
    }
    int failed_at = t->doubt_at, error = t->doubt_error;
    bool is_failure = kind == K_OPS_FAILED || t->doubt;
    if (kind == K_OPS_FAILED) {
        uint32_t index = READ_ONCE(s->fail_index);
        failed_at = t->round_start + (int)(index < MAX_OPS ? index : MAX_OPS - 1);
        error = READ_ONCE(s->fail_errno);
        if (t->clone_at >= 0 && t->clone_at < t->matched && !p->forks_blank) {
            ask_for_proof(t, failed_at, error);
            return false;
        }
    } else if (kind == K_MORE && !t->doubt && (t->sent < t->op_count || t->rec_sent < t->rec_count)) {
        send_round(t, false);
        return false;
    } else if (kind == K_INTERRUPTED && !t->irq_wanted) {
        send_reply(t, 0); /* the signal of an interrupt that another event has answered already */
        return false;
    } else if (kind == K_CALL && (!t->is_patched || (uint64_t)sysno >= MAX_CALLS || info->actions[sysno] == ACT_TRAP)) {
        /* The stub makes no such calls without a signal frame, but a guest can report one. */
        send_reply(t, RF_TRAP);
        return false;
    }
    if (kind != K_MORE && kind != K_CUT && !is_failure) {
        t->has_frame = kind != K_CALL;
        t->has_result = false;
    }
    if (kind == K_MORE && t->owes == OWES_DONE)
        kind = K_DONE;
    t->owes = 0;
    run_remove(t);
    update_spin();
    t->irq_wanted = false;
    if (p->op_thr == t)
        end_batch(p);
    t->prefetch_count = 0;
    end_doubt(t);
    if (is_failure) {
        fail_batch(t, e, failed_at, error);
    } else if (kind == K_SYSCALL || kind == K_CALL) {
        take_call(t, e, sysno);
    } else if (kind == K_INTERRUPTED || kind == K_DONE) {
        *e = (struct event){{kind == K_DONE ? EV_OPS_DONE : EV_INTERRUPTED, t->id}};
        clear_queue(t);
    } else if (kind == K_CUT && t->holds & HOLD_WINDOWS) {
        *e = (struct event){{EV_CUT, t->id}};
        clear_queue(t);
        t->holds = AVOID_WINDOWS;
    } else {
        take_fault(t, e);
    }
    return true;
}
