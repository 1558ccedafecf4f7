/* The ends of threads, of processes, of processes that lie or stay silent, and of the sandbox.
 *
 * Every thread ends by `leave`, which settles what it holds and owes; its record is free when its host thread is gone,
 * or never was (release_thread).  A process ends by `forget_process`, once: it was reaped, or will not be born.
 */
#include "parts.h"

int orphan_count;
uint64_t liar_count, notified_count;

/* The process that the fork of a parent that has ended is to become; its group keeps the parent's number. */
struct prc *orphan_of(int group)
{
    for (int i = 0; i < prc_count && orphan_count; i++)
        if (prcs[i]->used && group > 0 && prcs[i]->orphan_group == group)
            return prcs[i];
    return NULL;
}

void end_orphanhood(struct prc *child)
{
    child->orphan_group = 0;
    orphan_count--;
}

/* Kill the process and its group; the zygote has no group. */
static void kill_group(struct prc *p)
{
    if (p->pid > 0 && kill(-p->pid, SIGKILL) < 0)
        kill(p->pid, SIGKILL);
}

/* End a process that has lied, or has owed an answer for too long. */
void end_liar(struct prc *p)
{
    liar_count++;
    kill_group(p);
}

void end_doubt(struct thr *t)
{
    owing -= t->doubt != 0;
    t->doubt = 0;
}

/* ---- threads ---- */

/* Its host thread is gone, or will make no more calls. */
static void leave(struct thr *t)
{
    drop_deferred(t);
    run_remove(t);
    hash_remove(t);
    end_hold(t);
    end_doubt(t);
    irq_unsent_total -= t->irq_unsent;
    t->irq_unsent = false;
    owing -= t->gone && !t->exited;
    t->gone = false;
    fail_shared(t, 0);
    drop_ops(t, t->op_count);
    clear_queue(t);
}

static void release_thread(struct thr *t)
{
    leave(t);
    if (t->prc->slots[t->slotno] == t)
        t->prc->slots[t->slotno] = NULL;
    free_thr(t);
}

void discard_thread(struct thr *t)
{
    if (!t->exiting || t->prc->dead) {
        release_thread(t);
        return;
    }
    t->gone = true; /* slot_is_free frees it */
    t->irq_since = now_ns();
    owing += !t->exited;
}

/* ---- processes ---- */

/* Free the records of a process that is dead or was never born. */
void release_process(struct prc *p)
{
    for (int i = 0; i < p->slot_high; i++)
        if (p->slots[i])
            release_thread(p->slots[i]);
    munmap(p->region, REGION_SIZE);
    close(p->region_fd);
    p->used = false;
}

bool discard_process(struct prc *p) /* it is dead, or was never born; false: it may still be */
{
    if (!p->dead && p->pid > 0)
        return PyErr_Format(PyExc_RuntimeError, "process %d lives", p->id), false;
    bool may_be_born = p->orphan_group != 0;
    for (int i = 0; i < prc_count && !may_be_born; i++)
        may_be_born = prcs[i]->used && prcs[i]->adopting == p;
    if (!may_be_born) {
        release_process(p);
        return true;
    }
    kill_process(p); /* then it dies at once and is discarded again */
    return false;
}

void kill_process(struct prc *p)
{
    if (p->dead)
        return;
    if (p->pid > 0 && p->adopting && p->cloned) {
        kill(p->pid, SIGKILL); /* its child may be born, and is still in its group */
    } else if (p->pid > 0) {
        kill_group(p);
    } else {
        p->kill_wanted = true;
        if (p->orphan_group)
            kill(-p->orphan_group, SIGKILL);
    }
}

/* The process is dead. */
void forget_process(struct prc *p, int64_t status, PyObject *const *usage, Py_ssize_t count)
{
    int group = p->pid;
    end_batch(p);
    p->dead = true;
    p->pid = -1;
    for (int i = 0; i < p->slot_high; i++)
        if (p->slots[i])
            leave(p->slots[i]);
    struct event *told = push_event(EV_PROCESS_DIED, p->ident, status);
    for (int i = 0; i < count && i < 4; i++)
        told->v[4 + i] = PyLong_AsLongLong(usage[i]);
    if (!p->adopting)
        return;
    /* The child may exist, and live on; if it was killed or never existed, it ends with its parent. */
    int pid = p->cloned && group > 0 ? unknown_child(group) : 0;
    struct prc *child = end_adoption(p);
    if (pid < 0 || (pid && child->kill_wanted))
        kill(-group, SIGKILL);
    if (pid) {
        child->orphan_group = group;
        child->orphan_since = now_ns();
        orphan_count++;
    }
    if (pid <= 0)
        forget_process(child, SIGKILL, NULL, 0);
}

/* ---- deaths, which Python detects (platform/deaths.py) ---- */

/* Whether a child of the sentry that has died, and waits to be reaped, is a guest's process, or was to become one. */
bool is_guests(int pid, int group)
{
    struct prc *p = prc_by_pid(pid);
    if (p && !(p->adopting && p->cloned))
        kill(-pid, SIGKILL); /* its group must be empty */
    return p || prc_by_pid(group) || orphan_of(group);
}

/* It has been reaped; `usage` is as in EV_PROCESS_DIED. The group of one that was not adopted shows which process it
 * was to become. */
void bury(int pid, int group, int64_t status, PyObject *const *usage, Py_ssize_t count)
{
    struct prc *p = prc_by_pid(pid), *parent = prc_by_pid(group);
    if (!p && parent && parent->adopting && parent->cloned)
        p = end_adoption(parent);
    else if (!p && (p = orphan_of(group)))
        end_orphanhood(p);
    if (p && p->used && !p->dead)
        forget_process(p, status, usage, count);
}

/* The process group in which the process is on the host, or would be if it was born; -1: unknown. */
int64_t group_of(struct prc *p)
{
    return p->orphan_group ? p->orphan_group : process_pid(p);
}

/* ---- processes that stay silent ---- */

/* Whether the process owes an exit, a proof or a child's first call for longer than `limit`; with `is_asked` a batch that
 * others wait for, or the answer to an interrupt. */
bool is_overdue(struct prc *p, uint64_t limit, int is_asked)
{
    uint64_t now = now_ns();
    bool owes = is_asked ? (p->held_count || p->adopting) && ops_pending(p) : p->adopting && p->cloned;
    if (p->dead)
        return false;
    if ((owes && now - p->op_since > limit) || (p->orphan_group && now - p->orphan_since > limit))
        return true;
    for (int k = 0; k < p->slot_high; k++) {
        struct thr *t = p->slots[k];
        owes = t && (is_asked ? t->irq_wanted && t->running : (t->gone && !t->exited) || t->doubt);
        if (owes && now - t->irq_since > limit)
            return true;
    }
    return false;
}

/* ---- the end ---- */

void close_all(void) /* forget everything; every guest process is dead */
{
    struct event forgotten;
    for (int i = 0; i < prc_count; i++) {
        if (prcs[i]->used)
            release_process(prcs[i]);
        free(prcs[i]);
    }
    check_delegated();
    while (take_queued(&forgotten))
        ;
    prc_count = newborn = owing = ops_out = held_total = irq_unsent_total = orphan_count = 0;
    is_sync = false;
    use_proc(NULL);
    if (info)
        munmap(info, INFO_SIZE);
    info = NULL;
    listener = epoll_fd = -1;
}
