/* Ends: of threads, of processes, of those that lie or stay silent, of everything.
 *
 * A thread ends by `leave` (what it relies on and owes), whoever ends it; its record is free when its host thread is gone,
 * or never was (release_thread).  A process ends by `forget_process`, once: it was reaped, or will not be born.
 */
#include "parts.h"

#define PATIENCE_NS 10000000000ULL
#define MAX_REAPED 64 /* deaths that are dealt with before anything else is looked at again */

static struct orphan *orphans;
static int orphan_room;
int orphan_count;
uint64_t liar_count, notified_count;
bool reap_again; /* there were more deaths than could be dealt with */

/* That of the group, or of the child. */
struct orphan *find_orphan(int group, const struct prc *child)
{
    for (int i = 0; i < orphan_count; i++)
        if (orphans[i].group == group || orphans[i].child == child)
            return &orphans[i];
    return NULL;
}

void remove_orphan(struct orphan *o)
{
    *o = orphans[--orphan_count];
}

/* The process and whoever is in its group; the zygote has none. */
static void kill_group(struct prc *p)
{
    if (p->pid > 0 && kill(-p->pid, SIGKILL) < 0)
        kill(p->pid, SIGKILL);
}

/* The process has said what is not true, or owes an answer for too long: it ends. */
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

/* Free what a process that is dead or was never born has of ours. */
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
    struct orphan *o = find_orphan(0, p);
    bool may_be_born = o != NULL;
    for (int i = 0; i < prc_count && !may_be_born; i++)
        may_be_born = prcs[i]->used && prcs[i]->adopting == p;
    if (!may_be_born) {
        release_process(p);
        return true;
    }
    p->kill_wanted = true; /* then it dies at once and is discarded again */
    if (o)
        kill(-o->group, SIGKILL);
    return false;
}

void kill_process(struct prc *p)
{
    if (p->dead)
        return;
    struct orphan *o = find_orphan(0, p);
    if (p->pid > 0 && p->adopting && p->cloned) {
        kill(p->pid, SIGKILL); /* its child may be born, and is still of its group */
    } else if (p->pid > 0) {
        kill_group(p);
    } else {
        p->kill_wanted = true;
        if (o)
            kill(-o->group, SIGKILL);
    }
}

/* The process is dead; `usage` may be NULL. */
void forget_process(struct prc *p, int status, const struct rusage *usage)
{
    int group = p->pid;
    end_batch(p);
    p->dead = true;
    p->pid = -1;
    for (int i = 0; i < p->slot_high; i++)
        if (p->slots[i])
            leave(p->slots[i]);
    push_event(EV_PROCESS_DIED, p->ident, status, usage);
    if (!p->adopting)
        return;
    /* The child may be there, and live on; if it was killed or never was, it dies with its parent. */
    int pid = p->cloned && group > 0 ? unknown_child(group) : 0;
    struct prc *child = end_adoption(p);
    if (pid < 0 || (pid && child->kill_wanted))
        kill(-group, SIGKILL);
    if (pid) {
        orphans = grow(orphans, &orphan_room, orphan_count + 1, sizeof *orphans);
        orphans[orphan_count++] = (struct orphan){group, child, now_ns()};
    }
    if (pid <= 0)
        forget_process(child, SIGKILL, NULL);
}

/* ---- deaths ---- */

static void reap_process(struct prc *p)
{
    int status = 0;
    struct rusage usage = {0};
    if (!p->adopting || !p->cloned)
        kill(-p->pid, SIGKILL); /* nobody is to be in its group */
    wait4(p->pid, &status, WNOHANG | __WALL, &usage);
    forget_process(p, status, &usage);
}

/* A fork that was let through has died before it could be adopted: its number says what it is to be. */
static bool reap_unborn(int pid)
{
    int group = getpgid(pid), status = 0;
    struct prc *p = prc_by_pid(group), *child = NULL;
    struct orphan *o = p ? NULL : find_orphan(group, NULL);
    struct rusage usage = {0};
    if (!p && !o)
        return false;
    wait4(pid, &status, WNOHANG | __WALL, &usage);
    if (p && p->adopting && p->cloned) {
        child = end_adoption(p);
    } else if (o) {
        child = o->child;
        remove_orphan(o);
    }
    if (child && child->used && !child->dead)
        forget_process(child, status, &usage);
    return true;
}

/* Whether such a child has died: its pid, and it stays to be waited for. */
static int dead_child(idtype_t type, int id)
{
    siginfo_t si = {0};
    return waitid(type, id, &si, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 ? 0 : si.si_pid;
}

/* Children that died.  A guest's process group goes with it. */
void reap(void)
{
    char room[1024]; /* some struct signalfd_siginfo: who it is we ask the host */
    int pid;
    while (read(sigchld_fd, room, sizeof room) > 0)
        ;
    reap_again = false;
    for (int count = 0; (pid = dead_child(P_ALL, 0)); count++) {
        if (count == MAX_REAPED) {
            reap_again = true;
            return;
        }
        struct prc *p = prc_by_pid(pid);
        if (p)
            reap_process(p);
        else if (!reap_unborn(pid))
            break;
    }
    if (!pid)
        return;
    /* Somebody else's child: leave it to be waited for, and look one by one. */
    for (int i = 0; i < prc_count; i++) {
        struct prc *p = prcs[i];
        if (p->used && !p->dead && p->pid > 0 && dead_child(P_PID, p->pid))
            reap_process(p);
    }
    for (int i = 0; i < orphan_count; i++) {
        pid = dead_child(P_PGID, orphans[i].group);
        if (pid && reap_unborn(pid))
            i--;
    }
}

/* ---- who stays silent ---- */

static bool is_late(struct prc *p, uint64_t now, uint64_t limit, bool for_python)
{
    bool owes = for_python ? (p->held_count || p->adopting) && ops_pending(p) : p->adopting && p->cloned;
    if (owes && now - p->op_since > limit)
        return true;
    for (int k = 0; k < p->slot_high; k++) {
        struct thr *t = p->slots[k];
        owes = t && (for_python ? t->irq_wanted && t->running : (t->gone && !t->exited) || t->doubt);
        if (owes && now - t->irq_since > limit)
            return true;
    }
    return false;
}

/* Whoever owes an exit, a proof or a child's first call for too long ends. */
void check_owing(void)
{
    uint64_t now = now_ns();
    for (int i = 0; i < orphan_count; i++)
        if (now - orphans[i].since > PATIENCE_NS)
            kill(-orphans[i].group, SIGKILL);
    for (int i = 0; i < prc_count && owing + newborn; i++)
        if (prcs[i]->used && !prcs[i]->dead && is_late(prcs[i], now, PATIENCE_NS, false))
            end_liar(prcs[i]);
}

bool is_overdue(struct prc *p, uint64_t limit) /* it owes a batch or the answer to an interrupt for longer */
{
    return !p->dead && is_late(p, now_ns(), limit, true);
}

/* ---- the end ---- */

void close_all(void) /* forget everything; every guest process is dead */
{
    for (int i = 0; i < prc_count; i++)
        if (prcs[i]->used)
            release_process(prcs[i]);
    reset_tables();
    forget_wakes();
    forget_events();
    ops_out = held_total = irq_unsent_total = orphan_count = 0;
    is_sync = false;
    use_proc(NULL);
    if (info)
        munmap(info, INFO_SIZE);
    info = NULL;
    listener = sigchld_fd = epoll_fd = -1;
}
