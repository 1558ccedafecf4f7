/* The event loop: find what guests posted, notifications, deaths, and readiness of the sentry's descriptors. */

#define TAG_LISTENER (1ULL << 40)
#define TAG_SIGCHLD (2ULL << 40)
#define MAX_REAPED 64 /* deaths that are dealt with before anything else is looked at again */
#define FAIR_TURN 8   /* calls that may be taken in a row while a descriptor or a death waits */

static bool reap_again;

/* The meter of I8: for how long the caller keeps the loop between two looks.  `left_at` is when it was last let go, taken
 * from the readings of the clock that are made anyway. */
static uint64_t left_at, held_ticks = UINT64_MAX; /* the limit */
static int64_t held_cpu_ns, cpu_left; /* a limit in processor time of this thread as well; 0: none */
static int64_t last_kind, last_number;

static int64_t thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* The loop was kept for `passed` ticks; false if most of that was not our own time, where only that counts. */
static bool was_held(struct event *e, uint64_t passed)
{
    int64_t cpu = held_cpu_ns ? thread_cpu_ns() - cpu_left : -1;
    if (held_cpu_ns && cpu <= held_cpu_ns)
        return false;
    *e = (struct event){{9, -2, last_kind, last_number, (int64_t)passed, cpu}};
    return true;
}
#define PATIENCE_NS 10000000000ULL
#define OWING_TURN 4096  /* times the sentry's spin, half a second */
#define LAST_ERRNO 133   /* EHWPOISON */

static void forget_process(struct prc *p, int status, const struct rusage *usage);

/* A guest that posts from our own processor cannot run while we spin, nor we while it does, and as long as we take turns
 * the scheduler sees no reason to part us: go to another processor by ourselves, for once. */
static void keep_apart(uint32_t theirs)
{
    static int together;
    static uint64_t last_move;
    uint32_t ours;
    uint64_t now = __builtin_ia32_rdtscp(&ours);
    if ((ours & 0xfff) != theirs || run_count >= cpu_count) {
        together = 0;
        return;
    }
    if (++together < 16)
        return;
    together = 0;
    if (now - last_move < 32 * spin_ticks)
        return;
    last_move = now;
    cpu_set_t all, others;
    if (sched_getaffinity(0, sizeof all, &all) < 0)
        return;
    others = all;
    if (theirs < CPU_SETSIZE)
        CPU_CLR(theirs, &others);
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) < 0)
        return;
    sched_setaffinity(0, sizeof all, &all);
    spin_penalty = spin_skip = 0;
    stat_moves++;
}

/* A call that may come without a signal frame: the stub makes no others so, but a guest can say that it did. */
static bool may_lack_frame(int64_t nr)
{
    return (uint64_t)nr < sizeof info->actions && info->actions[nr] != ACT_TRAP;
}

/* It says what it cannot say now: its task waits in a call, and would be in two at once. */
static bool is_out_of_turn(const struct thr *t, uint32_t kind)
{
    if (t->owes == OWES_STOP)
        return kind == K_SYSCALL || kind == K_CALL;
    return kind != K_MORE && kind != K_OPS_FAILED && !(kind == K_CUT && t->holds & HOLD_WINDOWS);
}

/* Operations that make or end threads were ordered and not let through. */
static bool has_skipped(const struct thr *t)
{
    return t->matched < t->must_match && (t->exiting || t->clone_at >= t->matched);
}

/* It says that a batch failed after its clone was let through.  Have it make another call: then the clone is over, and
 * the host shows whether there is a child (`prove`). */
static void ask_for_proof(struct thr *t)
{
    struct slot *s = t->slot;
    uint32_t index = READ_ONCE(s->fail_index);
    int error = READ_ONCE(s->fail_errno);
    t->doubt = DOUBT_ASKED;
    t->doubt_at = t->round_start + (int)(index < MAX_OPS ? index : MAX_OPS - 1);
    t->doubt_error = error;
    t->irq_since = t->irq_wanted ? t->irq_since : now_ns();
    owing++;
    s->ops[0] = (struct op){SYS_munmap, {MAX_ADDRESS, 4096}, 0}; /* never mapped */
    s->reply = RF_MORE | 1 << 16;
    wake(t);
}

static void end_doubt(struct thr *t)
{
    if (!t->doubt)
        return;
    t->doubt = 0;
    owing--;
}

/* Free a thread's place: its host thread is gone or never was. */
static void release_thread(struct thr *t)
{
    struct prc *p = prcs[t->prc];
    drop_deferred(t);
    run_remove(t);
    if (t->held) {
        t->held = false;
        p->held_count--;
        held_total--;
    }
    if (t->irq_unsent) {
        t->irq_unsent = false;
        irq_unsent_total--;
    }
    end_doubt(t);
    if (t->gone && !t->exited)
        owing--;
    fail_windows(t, 0);
    drop_ops(t, t->op_count);
    clear_queue(t);
    hash_remove(t);
    t->used = t->gone = false;
    if (p->used && p->slots[t->slotno] == t)
        p->slots[t->slotno] = NULL;
    thr_free = grow(thr_free, &thr_free_room, thr_free_count + 1, sizeof *thr_free);
    thr_free[thr_free_count++] = t->id;
}

/* Free what a process that is dead or was never born has of ours. */
static void release_process(struct prc *p)
{
    for (int i = 0; i < p->slot_high; i++)
        if (p->slots[i])
            release_thread(p->slots[i]);
    munmap(p->region, REGION_SIZE);
    close(p->region_fd);
    p->used = false;
    prc_free = grow(prc_free, &prc_free_room, prc_free_count + 1, sizeof *prc_free);
    prc_free[prc_free_count++] = p->id;
}

/* An operation of the batch has failed; a clone in it that was let through has been proven to have no child. */
static void fail_batch(struct thr *t, struct event *e, int at, int error)
{
    struct prc *p = prcs[t->prc];
    if (at >= t->op_count)
        at = t->op_count - 1;
    struct hop *clone = t->clone_at < 0 ? NULL : &t->ops[t->clone_at];
    struct thr *born = clone ? child_of(clone) : NULL;
    if (clone && !(clone->op.args[0] & CLONE_VM) && adopts(p, clone)) {
        struct prc *child = prcs[p->adopting];
        p->adopting = -1;
        set_cloned(p, false);
        if (child->kill_wanted)
            forget_process(child, SIGKILL, NULL);
    } else if (born) {
        born->born = false;
        run_remove(born);
    }
    *e = (struct event){{4, t->id, at, error > 0 && error <= LAST_ERRNO ? error : EPERM}};
    t->rounds = READ_ONCE(t->slot->ops_done);
    fail_windows(t, at);
    fail_closing(t, at);
    drop_ops(t, at);
    clear_queue(t);
    t->holds = AVOID_WINDOWS; /* whatever failed may have been one's mapping */
}

/* Make an event of a request, or deal with it here.  False: nothing for the caller.
 *
 * What a guest says about operations ends its own process, fails its own call or repeats it; what it must not say is
 * found out before anything changes. */
static bool take(struct thr *t, struct event *e)
{
    struct slot *s = t->slot;
    struct prc *p = prcs[t->prc];
    uint32_t kind = READ_ONCE(s->kind);
    int64_t sysno = READ_ONCE(s->sysno);
    keep_apart(kind >> 16);
    kind &= 0xffff;
    bool is_failure = kind == K_OPS_FAILED;
    if (t->gone || (t->doubt && (kind != K_MORE || t->doubt != DOUBT_PROVEN)) ||
        (is_failure ? !t->op_count : has_skipped(t)) || (t->owes && is_out_of_turn(t, kind))) {
        run_remove(t);
        end_liar(p);
        return false;
    }
    if (is_failure && t->clone_at >= 0 && t->clone_at < t->matched && !p->forks_blank) {
        ask_for_proof(t);
        return false;
    }
    if (t->doubt)
        is_failure = true;
    else
    if (kind == K_MORE && (t->sent < t->op_count || t->rec_sent < t->rec_count)) {
        send_round(t);
        return false;
    }
    if (kind == K_INTERRUPTED && !t->irq_wanted) {
        /* The signal of an interrupt that another event has answered already. */
        s->reply = 0;
        wake(t);
        return false;
    }
    if (kind == K_CALL && (!t->is_patched || !may_lack_frame(sysno))) {
        s->reply = RF_TRAP;
        wake(t);
        return false;
    }
    if (kind != K_MORE && kind != K_CUT && !is_failure) {
        t->has_frame = kind != K_CALL;
        t->has_result = false;
    }
    if (kind == K_CALL)
        kind = K_SYSCALL;
    if (kind == K_MORE && t->owes == OWES_DONE)
        kind = K_DONE;
    t->owes = 0;
    run_remove(t);
    update_spin();
    t->irq_wanted = false;
    if (p->op_thr == t->id) {
        p->op_thr = -1;
        ops_out--;
    }
    t->prefetch_count = 0;
    if (is_failure) {
        uint32_t index = READ_ONCE(s->fail_index);
        int at = t->doubt ? t->doubt_at : t->round_start + (int)(index < MAX_OPS ? index : MAX_OPS - 1);
        int error = t->doubt ? t->doubt_error : READ_ONCE(s->fail_errno);
        end_doubt(t);
        fail_batch(t, e, at, error);
        return true;
    }
    switch (kind) {
    case K_SYSCALL: {
        e->v[0] = 1;
        e->v[1] = t->id;
        e->v[2] = sysno;
        p->calls++;
        for (int i = 0; i < 6; i++)
            e->v[3 + i] = READ_ONCE(s->args[i]);
        uint32_t n = READ_ONCE(s->prefetch_count);
        uint32_t used = 0;
        for (uint32_t i = 0; i < n && i < MAX_PREFETCH; i++) {
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
        break;
    }
    case K_INTERRUPTED:
        *e = (struct event){{3, t->id}};
        clear_queue(t);
        break;
    case K_DONE:
        *e = (struct event){{8, t->id}};
        clear_queue(t);
        break;
    case K_CUT:
        if (t->holds & HOLD_WINDOWS) {
            *e = (struct event){{10, t->id}};
            clear_queue(t);
            t->holds = AVOID_WINDOWS;
            break;
        }
        __attribute__((fallthrough));
    default: {
        int signo = READ_ONCE(s->signo);
        t->has_frame = true; /* also of a forged kind: what is read there is the guest's own nonsense */
        t->has_result = false;
        uint64_t *regs = regs_of(t); /* behind the registers: error code, number of the trap */
        *e = (struct event){{2, t->id, signo > 0 && signo <= 64 ? signo : SIGSEGV, READ_ONCE(s->code),
                             (int64_t)READ_ONCE(s->addr), READ_ONCE(regs[20]) & 0xff,
                             READ_ONCE(regs[19]) & 0xffffffff}};
        clear_queue(t);
    }
    }
    return true;
}

static bool scan(struct event *e)
{
    for (int i = 0; i < run_count; i++) {
        if (run_next >= run_count)
            run_next = 0;
        int k = run_next++;
        uint32_t state = *run_states[k];
        if (state != ST_REQUEST && state != ST_SLEEPING)
            continue;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (take(thrs[run_ids[k]], e))
            return true;
    }
    return false;
}

static void forget_process(struct prc *p, int status, const struct rusage *usage)
{
    if (p->op_thr >= 0) {
        p->op_thr = -1;
        ops_out--;
    }
    for (int i = 0; i < p->slot_high; i++) {
        struct thr *t = p->slots[i];
        if (!t)
            continue;
        drop_deferred(t);
        run_remove(t);
        hash_remove(t);
        end_doubt(t);
        if (t->gone && !t->exited)
            owing--;
        t->gone = false;
        drop_ops(t, t->op_count);
        clear_queue(t);
        if (t->held) {
            t->held = false;
            p->held_count--;
            held_total--;
        }
        if (t->irq_unsent) {
            t->irq_unsent = false;
            irq_unsent_total--;
        }
    }
    int group = p->pid;
    p->dead = true;
    p->pid = -1;
    push_event(5, -1, p->ident, status);
    if (usage) {
        int64_t *v = queue[queue_count - 1].v;
        v[4] = usage->ru_maxrss;
        v[5] = usage->ru_minflt;
        v[6] = usage->ru_majflt;
        v[7] = usage->ru_nivcsw;
    }
    if (p->adopting >= 0) {
        /* The child may be there, and live on; if it was killed or never was, it dies with its parent. */
        struct prc *child = prcs[p->adopting];
        bool cloned = p->cloned;
        p->adopting = -1;
        set_cloned(p, false);
        int pid = cloned && group > 0 ? unknown_child(group) : 0;
        if (pid < 0)
            kill(-group, SIGKILL);
        if (pid) {
            orphans = grow(orphans, &orphan_room, orphan_count + 1, sizeof *orphans);
            orphans[orphan_count++] = (struct orphan){group, child->id, now_ns()};
        }
        if (pid <= 0)
            forget_process(child, SIGKILL, NULL);
        else if (child->kill_wanted)
            kill(-group, SIGKILL);
    }
}

/* A fork that was let through has died before it could be adopted: its number, and what it is to be. */
static bool reap_unborn(int pid)
{
    int group = getpgid(pid), status = 0;
    struct prc *p = prc_by_pid(group), *child = NULL;
    struct orphan *o = p ? NULL : find_orphan(group);
    struct rusage usage = {0};
    if (!p && !o)
        return false;
    wait4(pid, &status, WNOHANG | __WALL, &usage);
    if (p && p->adopting >= 0 && p->cloned) {
        child = prcs[p->adopting];
        p->adopting = -1;
        set_cloned(p, false);
    } else if (o) {
        child = o->child < 0 ? NULL : prcs[o->child];
        remove_orphan(o);
    }
    if (child && child->used && !child->dead)
        forget_process(child, status, &usage);
    return true;
}

static void reap_process(struct prc *p)
{
    int status = 0;
    struct rusage usage = {0};
    if (p->adopting < 0 || !p->cloned)
        kill(-p->pid, SIGKILL); /* nobody is to be in its group */
    wait4(p->pid, &status, WNOHANG | __WALL, &usage);
    forget_process(p, status, &usage);
}

/* Whoever owes an exit, a proof or a child's first call for too long ends. */
static void check_owing(uint64_t now)
{
    for (int i = 0; i < orphan_count; i++)
        if (now - orphans[i].since > PATIENCE_NS)
            kill(-orphans[i].group, SIGKILL);
    for (int i = 0; i < prc_count && owing + newborn; i++) {
        struct prc *p = prcs[i];
        if (!p->used || p->dead)
            continue;
        bool late = p->adopting >= 0 && p->cloned && now - p->op_since > PATIENCE_NS;
        for (int k = 0; k < p->slot_high && !late; k++) {
            struct thr *t = p->slots[k];
            late = t && ((t->gone && !t->exited) || t->doubt) && now - t->irq_since > PATIENCE_NS;
        }
        if (late)
            end_liar(p);
    }
}

/* Children that died.  A guest's process group goes with it. */
static void reap(void)
{
    struct signalfd_siginfo room[8];
    while (read(sigchld_fd, room, sizeof room) > 0)
        ;
    bool foreign = false;
    reap_again = false;
    for (int count = 0;; count++) {
        if (count == MAX_REAPED) {
            reap_again = true;
            return;
        }
        siginfo_t si = {0};
        if (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 || !si.si_pid)
            return;
        struct prc *p = prc_by_pid(si.si_pid);
        if (!p) {
            if (!reap_unborn(si.si_pid)) {
                foreign = true; /* somebody else's child: leave it to be waited for, and look one by one */
                break;
            }
            continue;
        }
        reap_process(p);
    }
    for (int i = 0; foreign && i < prc_count; i++) {
        struct prc *p = prcs[i];
        siginfo_t si = {0};
        if (!p->used || p->dead || p->pid <= 0)
            continue;
        if (waitid(P_PID, p->pid, &si, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 && si.si_pid)
            reap_process(p);
    }
    for (int i = 0; foreign && i < orphan_count; i++) {
        siginfo_t si = {0};
        if (waitid(P_PGID, orphans[i].group, &si, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 && si.si_pid &&
            reap_unborn(si.si_pid))
            i--;
    }
}

/* Room for more descriptors: those that were reported stay until they are taken, because an edge comes only once. */
static int ready_room(void)
{
    if (ready_head) {
        ready_count -= ready_head;
        memmove(ready, ready + ready_head, ready_count * sizeof *ready);
        ready_head = 0;
    }
    return READY_MAX - ready_count;
}

/* `n` is at most ready_room(). */
static void handle_ready(struct epoll_event *events, int n)
{
    bool notified = false, died = false;
    for (int i = 0; i < n; i++) {
        if (events[i].data.u64 == TAG_LISTENER)
            notified = true;
        else if (events[i].data.u64 == TAG_SIGCHLD)
            died = true;
        else {
            ready[ready_count].fd = (int)events[i].data.u64;
            ready[ready_count++].events = events[i].events;
        }
    }
    if (notified)
        handle_notifications();
    if (died)
        reap();
}

static int poll_now(void)
{
    struct epoll_event events[READY_MAX];
    int room = ready_room();
    if (!room)
        return 0;
    int n = epoll_wait(epoll_fd, events, room, 0);
    if (n > 0)
        handle_ready(events, n);
    if (reap_again) {
        reap();
        return n > 0 ? n : 1;
    }
    return n;
}

static bool take_queued(struct event *e)
{
    if (queue_head < queue_count) {
        *e = queue[queue_head++];
        return true;
    }
    while (ready_head < ready_count) {
        int fd = ready[ready_head].fd;
        uint32_t events = ready[ready_head++].events;
        if (fd < fd_room && fd_tokens[fd] != NO_TOKEN) {
            *e = (struct event){{6, -1, fd_tokens[fd], events}};
            return true;
        }
    }
    return false;
}

static bool send_interrupt(struct thr *t)
{
    struct prc *p = prcs[t->prc];
    if (p->pid <= 0)
        return false;
    int tid = t->tid;
    if (!tid) {
        tid = READ_ONCE(t->slot->tid);
        if (tid <= 0 || hash_find(tid))
            return false;
    }
    if (syscall(SYS_tgkill, p->pid, tid, INTERRUPT_SIGNAL) < 0)
        return false;
    if (!t->tid) {
        t->tid = tid;
        hash_add(t);
    }
    return true;
}

static void retry_interrupts(void)
{
    for (int i = 0; i < run_count && irq_unsent_total; i++) {
        struct thr *t = thrs[run_ids[i]];
        if (t->irq_unsent && (!t->irq_wanted || send_interrupt(t))) {
            t->irq_unsent = false;
            irq_unsent_total--;
        }
    }
}

static int wait_ready(struct epoll_event *events, int room, int64_t timeout_ns)
{
    if (has_pwait2) {
        struct timespec t = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        int n = syscall(SYS_epoll_pwait2, epoll_fd, events, room, timeout_ns < 0 ? NULL : &t, NULL, 0);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n;
        has_pwait2 = false;
    }
    int ms = timeout_ns < 0 ? -1 : timeout_ns > 1000000000000LL ? 1000000000 : (int)((timeout_ns + 999999) / 1000000);
    return epoll_wait(epoll_fd, events, room, ms);
}

static uint64_t last_poll, last_owing;

/* Spinning pays only if the answer comes soon and nobody else wants the processor: after failures it is tried
 * ever more rarely, after a success at once again. */
static bool spin_worth(void)
{
    if (!run_count || run_count > cpu_count || !spin_ticks || (ops_out && is_sync))
        return false;
    if (newborn) /* it may have been put on our processor */
        return false;
    if (spin_skip) {
        spin_skip--;
        return false;
    }
    return true;
}

static void spin_result(bool succeeded)
{
    if (succeeded)
        spin_penalty = spin_penalty > 1 ? spin_penalty / 2 : 0;
    else
        spin_penalty = spin_penalty ? (spin_penalty < 32 ? spin_penalty * 2 : 64) : 1;
    spin_skip = spin_penalty >= 4 ? spin_penalty : 0; /* a guest may compute for once */
    update_spin();
}

/* Whether a guest that was woken does not run yet. */
static bool is_somebody_waking(void)
{
    for (int i = 0; i < run_count; i++) {
        struct thr *t = thrs[run_ids[i]];
        if (!t->is_waking)
            continue;
        if (*run_states[i] == ST_REPLY)
            return true;
        t->is_waking = false;
    }
    return false;
}

/* Look for an event for a while: 1 if one came, 0 if none did, -1 if somebody may want our processor. */
static int spin(struct event *e)
{
    uint64_t start = ticks(), budget = run_count < cpu_count ? spin_ticks : spin_ticks / 4;
    uint64_t next_look = spin_ticks / 4;
    for (int turn = 1;; turn++) {
        if (scan(e) || (ops_out && (turn & 7) == 0 && poll_now() > 0 && take_queued(e)))
            return 1;
        uint64_t passed = ticks() - start;
        if (passed >= budget)
            return 0;
        if (passed >= next_look) {
            /* The scheduler may have put who was woken behind us, and leaves it there while another processor idles. */
            next_look = passed + spin_ticks / 16;
            if (is_somebody_waking())
                return -1;
        }
        __builtin_ia32_pause();
    }
}

/* 1: an event; 0: the time is over; -1: a Python exception (a signal handler raised).  Waits for `timeout_ns`, or if that
 * is negative until `deadline` (negative: for ever); no clock is read while there are events. */
static int next_event(struct event *e, int64_t timeout_ns, int64_t deadline)
{
    static int in_a_row;
    if (timeout_ns > 0)
        deadline = (int64_t)now_ns() + timeout_ns;
    memset(e, 0, sizeof *e);
    flush_deferred();
    if (bell_count)
        flush_bells();
    uint64_t now = ticks(), passed = now - left_at;
    left_at = now;
    if (passed > held_ticks && was_held(e, passed))
        return 1;
    if (ops_out || now - last_poll > spin_ticks) {
        last_poll = now;
        check_delegated();
        poll_now();
        if (owing + newborn + orphan_count && now - last_owing > OWING_TURN * spin_ticks) {
            last_owing = now;
            check_owing(now_ns());
        }
    }
    if ((queue_head < queue_count || ready_head < ready_count) && ++in_a_row >= FAIR_TURN) {
        in_a_row = 0; /* the guests' calls may never come to an end */
        if (take_queued(e))
            return 1;
    }
    for (;;) {
        if (held_total)
            release_held();
        if (irq_unsent_total)
            retry_interrupts();
        if (scan(e) || take_queued(e))
            return 1;
        if (timeout_ns == 0) {
            if (poll_now() > 0 && (scan(e) || take_queued(e)))
                return 1;
            return 0;
        }
        if (spare_used)
            make_spare();
        if (spin_worth()) {
            int found = spin(e);
            left_at = ticks();
            if (found >= 0)
                spin_result(found);
            if (found > 0)
                return 1;
            if (deadline >= 0 && (int64_t)now_ns() >= deadline)
                return 0;
        }
        if (bell_count)
            flush_bells();
        check_delegated();
        /* Say that we sleep, look once more, sleep. */
        __atomic_store_n(&info->asleep, 1, __ATOMIC_SEQ_CST);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (scan(e)) {
            info->asleep = 0;
            return 1;
        }
        if (held_total)
            release_held();
        int64_t left = -1;
        if (deadline >= 0) {
            left = deadline - (int64_t)now_ns();
            if (left < 0)
                left = 0;
        }
        if (reap_again)
            left = 0;
        if (owing + newborn + orphan_count && (left < 0 || left > 1000000000))
            left = 1000000000;
        if (irq_unsent_total && (left < 0 || left > 1000000))
            left = 1000000;
        struct epoll_event events[READY_MAX];
        int n, room = ready_room();
        if (!room) /* cannot be: they are taken before */
            return take_queued(e);
        stat_sleeps++;
        Py_BEGIN_ALLOW_THREADS n = wait_ready(events, room, left);
        Py_END_ALLOW_THREADS
        info->asleep = 0;
        last_poll = left_at = ticks();
        if (n < 0 && errno == EINTR) {
            if (PyErr_CheckSignals() < 0)
                return -1;
            continue;
        }
        if (n > 0)
            handle_ready(events, n);
        if (reap_again)
            reap();
        if (n <= 0 && owing + newborn + orphan_count)
            check_owing(now_ns());
        if (scan(e) || take_queued(e))
            return 1;
        if (deadline >= 0 && (int64_t)now_ns() >= deadline)
            return 0;
    }
}
