/* The functions that Python sees. */

#define FUNC(name) static PyObject *name(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
#define NEED(n)                                                                                                 \
    (void)self;                                                                                                 \
    (void)args;                                                                                                 \
    if (nargs != (n))                                                                                           \
        return PyErr_Format(PyExc_TypeError, "%s takes %d arguments", __func__, (n))
#define U64(i) PyLong_AsUnsignedLongLongMask(args[i])
#define INT(i) ((int)(int64_t)PyLong_AsUnsignedLongLongMask(args[i]))
#define THR(i)                                                                                                  \
    struct thr *t = get_thr(args[i]);                                                                           \
    if (!t)                                                                                                     \
    return NULL
#define STOPPED                                                                                                 \
    if (t->running || t->held)                                                                                  \
    return PyErr_Format(PyExc_RuntimeError, "thread %d is not stopped", t->id)
#define NEED_FRAME                                                                                              \
    if (!t->has_frame)                                                                                          \
    return PyErr_Format(PyExc_RuntimeError, "thread %d has no signal frame", t->id)
#define PRC(i)                                                                                                  \
    struct prc *p = get_prc(args[i]);                                                                           \
    if (!p)                                                                                                     \
    return NULL

FUNC(setup) /* () -> epoll descriptor; SIGCHLD is blocked from now on */
{
    NEED(0);
    if (epoll_fd >= 0)
        return fail(EBUSY);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    info_fd = memfd_create("cloche-info", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (epoll_fd < 0 || info_fd < 0 || ftruncate(info_fd, INFO_SIZE) < 0)
        return fail(errno);
    info = mmap(NULL, INFO_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, info_fd, 0);
    if (info == MAP_FAILED)
        return fail(errno);
    /* Our mapping stays writable; a guest's can never become so. */
    if (fcntl(info_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) < 0)
        return fail(errno);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || (sigchld_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC)) < 0)
        return fail(errno);
    struct epoll_event e = {EPOLLIN, {.u64 = TAG_SIGCHLD}};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, sigchld_fd, &e) < 0)
        return fail(errno);
    return PyLong_FromLong(epoll_fd);
}

/* Runs in the vforked child: no locks, no allocation. */
static void exec_stub(int stub, int sock, int region, int proc)
{
    int fds[4] = {sock, region, info_fd, proc}; /* become 3, 4, 5 and 6 */
    int score = proc >= 0 ? openat(proc, "self/oom_score_adj", O_WRONLY | O_CLOEXEC) : -1;
    struct rlimit core = {1, 1}, stack = {8 << 20, 8 << 20}, files;
    char *argv[] = {"cloche-guest", NULL}, *envp[] = {NULL};
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* for the zygote only: a fork clears it */
    personality(ADDR_NO_RANDOMIZE);
    setrlimit(RLIMIT_CORE, &core);
    getrlimit(RLIMIT_STACK, &files);
    if (files.rlim_max < stack.rlim_max)
        stack = files;
    setrlimit(RLIMIT_STACK, &stack);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < 1024 ? files.rlim_max : 1024;
    setrlimit(RLIMIT_NOFILE, &files);
    if (score >= 0 && write(score, "1000", 4) < 0) {
        /* best effort: a lower score only makes the host's choice under memory pressure worse */
    }
    stub = fcntl(stub, F_DUPFD_CLOEXEC, 16);
    for (int i = 0; i < 4; i++)
        fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 16);
    for (int i = 0; i < 4; i++)
        if (dup2(fds[i], 3 + i) < 0 && i < 3)
            _exit(126);
    for (int cap = 0; cap < 64; cap++)
        prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    syscall(SYS_execveat, stub, "", argv, envp, AT_EMPTY_PATH);
    _exit(127);
}

FUNC(spawn) /* (stub fd, socket fd, descriptor of /proc or -1) -> (process, thread) of the zygote */
{
    NEED(3);
    struct prc *p = new_prc();
    if (!p)
        return fail(errno);
    struct thr *t = new_thr(p, 0);
    int stub = INT(0), sock = INT(1), proc = INT(2);
    t->slot->state = ST_GUEST;
    t->born = true;
    int pid = vfork();
    if (pid == 0)
        exec_stub(stub, sock, p->region_fd, proc);
    if (pid < 0) {
        int error = errno;
        release_thread(t);
        release_process(p);
        return fail(error);
    }
    p->pid = pid;
    t->tid = pid;
    hash_add(t);
    run_add(t);
    return Py_BuildValue("iii", p->id, t->id, pid);
}

FUNC(attach) /* (listener fd, strict) */
{
    NEED(2);
    listener = INT(0);
    strict_mode = INT(1);
    struct epoll_event e = {EPOLLIN, {.u64 = TAG_LISTENER}};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e) < 0)
        return fail(errno);
    Py_RETURN_NONE;
}

FUNC(ticks_now) /* () -> the time stamp counter */
{
    NEED(0);
    return PyLong_FromUnsignedLongLong(ticks());
}

FUNC(has_fsgsbase) /* () */
{
    NEED(0);
    return PyBool_FromLong(getauxval(AT_HWCAP2) & 2);
}

FUNC(has_bmi2) /* () */
{
    NEED(0);
    return PyBool_FromLong(__builtin_cpu_supports("bmi2"));
}

FUNC(take_pristine) /* (zygote's thread): learn the frame's layout; the thread is stopped in its first event */
{
    NEED(1);
    THR(0);
    STOPPED;
    t->has_frame = true;
    frame_offset = t->slot->sysno;
    if (frame_offset < STACK_OFFSET || frame_offset > SLOT_SIZE - 1024)
        return fail(EPROTO);
    char *frame = frame_of(t);
    fp_offset = *(uint64_t *)(frame + UC_OFFSET + FPPTR_OFFSET) - REGION_BASE;
    if (fp_offset < frame_offset || fp_offset > SLOT_SIZE - 512)
        return fail(EPROTO);
    fp_size = *(uint32_t *)((char *)t->slot + fp_offset + 468);
    if (fp_offset + fp_size > SLOT_SIZE || SLOT_SIZE - frame_offset > FRAME_MAX)
        return fail(E2BIG);
    free(pristine);
    pristine = malloc(SLOT_SIZE - frame_offset);
    if (!pristine)
        return PyErr_NoMemory();
    memcpy(pristine, frame, SLOT_SIZE - frame_offset);
    uint64_t *regs = (uint64_t *)(pristine + UC_OFFSET + REGS_OFFSET);
    memset(regs, 0, 17 * 8);
    regs[17] = 0x202;
    Py_RETURN_NONE;
}

FUNC(set_spin) /* (sentry ticks, stub ticks, cpus) */
{
    NEED(3);
    spin_ticks = U64(0);
    stub_spin_ticks = U64(1);
    cpu_count = INT(2);
    info->spin_ticks = stub_spin_ticks;
    Py_RETURN_NONE;
}

FUNC(new_process) /* () -> (process, ident): a region, no host process yet */
{
    NEED(0);
    struct prc *p = new_prc();
    if (!p)
        return fail(errno);
    return Py_BuildValue("iL", p->id, (long long)p->ident);
}

static bool slot_is_free(struct prc *p, int i)
{
    struct thr *t = p->slots[i];
    if (!t)
        return true;
    if (!t->gone || !t->exited)
        return false;
    /* Its host thread may still be on this slot's stack: the kernel must say that it is gone. */
    if (syscall(SYS_tgkill, p->pid, t->exit_tid, 0) == 0 || errno != ESRCH)
        return false;
    p->slots[i] = NULL;
    t->used = false;
    thr_free = grow(thr_free, &thr_free_room, thr_free_count + 1, sizeof *thr_free);
    thr_free[thr_free_count++] = t->id;
    return true;
}

FUNC(new_thread) /* (process, slot or -1, thread to copy or -1) -> thread, with its frame prepared */
{
    NEED(3);
    PRC(0);
    int slotno = INT(1), from = INT(2);
    if (slotno < 0)
        for (slotno = 0; slotno < SLOT_COUNT && !slot_is_free(p, slotno); slotno++)
            ;
    if (slotno >= SLOT_COUNT || p->slots[slotno])
        return fail(EAGAIN);
    struct thr *f = NULL;
    if (from >= 0) {
        f = get_thr(args[2]);
        if (!f)
            return NULL;
    }
    struct thr *t = new_thr(p, slotno);
    prepare_frame(t, f);
    return PyLong_FromLong(t->id);
}

FUNC(thread_slot) /* (thread) -> its slot number */
{
    NEED(1);
    THR(0);
    return PyLong_FromLong(t->slotno);
}

FUNC(discard_thread) /* (thread) */
{
    NEED(1);
    THR(0);
    struct prc *p = prcs[t->prc];
    if (t->exiting && !p->dead) {
        t->gone = true; /* slot_is_free frees it */
        t->irq_since = now_ns();
        if (!t->exited)
            owing++;
        Py_RETURN_NONE;
    }
    release_thread(t);
    Py_RETURN_NONE;
}

FUNC(discard_process) /* (process): it is dead, or was never born */
{
    NEED(1);
    PRC(0);
    if (!p->dead && p->pid > 0)
        return PyErr_Format(PyExc_RuntimeError, "process %d lives", p->id);
    struct orphan *o = orphan_of(p);
    bool may_be_born = o != NULL;
    for (int i = 0; i < prc_count && !may_be_born; i++)
        may_be_born = prcs[i]->used && prcs[i]->adopting == p->id;
    if (may_be_born) {
        p->kill_wanted = true; /* then it dies at once and is discarded again */
        if (o)
            kill(-o->group, SIGKILL);
        Py_RETURN_FALSE;
    }
    release_process(p);
    Py_RETURN_TRUE;
}

static bool op_allowed(uint64_t nr, const uint64_t *a)
{
    switch (nr) {
    case SYS_mmap:
    case SYS_munmap:
    case SYS_mprotect:
    case SYS_madvise:
        return guest_range(a[0], a[1]);
    case SYS_mremap:
        return guest_range(a[0], a[1]) && guest_range(a[3] & MREMAP_FIXED ? a[4] : a[0], a[2]);
    case SYS_exit:
        return true;
    }
    return false;
}

/* What the direct-mode filter lets through without asking (filter.py says the same). */
static bool op_direct(uint64_t nr, const uint64_t *a)
{
    if (strict_mode || a[0] >= MAX_ADDRESS || a[1] >> 32)
        return false;
    switch (nr) {
    case SYS_mmap:
        return !(a[3] & ~0x12c032ULL) && (a[3] & 0x32) == 0x32 && (uint32_t)a[4] == 0xffffffff && !(a[2] & ~7ULL);
    case SYS_munmap:
        return true;
    case SYS_mprotect:
        return !(a[2] & ~7ULL);
    case SYS_madvise:
        return a[2] <= 4 || a[2] == 8 || a[2] == 14 || a[2] == 15;
    }
    return false;
}

FUNC(queue_op) /* (thread, number, 6 arguments, descriptor or -1) */
{
    NEED(9);
    THR(0);
    STOPPED;
    uint64_t nr = U64(1), a[6];
    for (int i = 0; i < 6; i++)
        a[i] = U64(2 + i);
    int fd = INT(8);
    if (!op_allowed(nr, a))
        return fail(EINVAL);
    if (t->op_count > 100000)
        return fail(ENOMEM);
    struct prc *p = prcs[t->prc];
    int copy = -1;
    if (fd >= 0 && nr == SYS_mmap && op_keeps(a, fd)) {
        int number = keep_fd(t, fd, false);
        if (number >= 0) {
            a[4] = number;
            struct hop *h = add_op(t);
            h->op.nr = nr;
            memcpy(h->op.args, a, sizeof a);
            Py_RETURN_NONE;
        }
    }
    if (fd >= 0) {
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (copy < 0)
            return fail(errno);
        a[4] = rotate_fd(p);
    }
    if (nr == SYS_exit)
        t->exiting = true;
    struct hop *h = add_op(t);
    h->op.nr = nr;
    memcpy(h->op.args, a, sizeof a);
    h->fd = copy;
    h->notified = fd >= 0 || !op_direct(nr, a);
    if (fd >= 0) {
        struct hop *c = add_op(t);
        c->op.nr = SYS_close;
        c->op.args[0] = a[4];
    }
    Py_RETURN_NONE;
}

/* (thread, (device, inode) ...): close the descriptors that stay with its process, but those of the files named and of
 * those that the operations which are queued map. */
FUNC(queue_keep_only)
{
    (void)self;
    if (!(nargs & 1))
        return PyErr_Format(PyExc_TypeError, "queue_keep_only takes a thread and pairs");
    THR(0);
    STOPPED;
    struct prc *p = prcs[t->prc];
    uint64_t needed = held_by_others(p, t);
    for (int i = 0; i < KEPT_FDS; i++) {
        struct kept *k = &p->kept[i];
        if (!k->is_open && p->pid > 0)
            continue; /* before the birth no record tells what comes along */
        bool stays = needed & HOLD_KEPT(i) || (k->state != NONE && t->holds & HOLD_KEPT(i));
        for (Py_ssize_t j = 1; j < nargs && !stays; j += 2)
            stays = k->state != NONE && k->dev == (dev_t)U64(j) && k->ino == (ino_t)U64(j + 1);
        if (stays)
            continue;
        struct hop *h = add_op(t);
        h->op.nr = SYS_close;
        h->op.args[0] = FIRST_KEPT + i;
        lose_kept(k);
        k->is_open = false;
        t->holds |= HOLD_KEPT(i); /* nothing comes there until it is closed */
    }
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

FUNC(hot_identity) /* (descriptor) -> (device, inode) of a file that the zygote is to have, else None */
{
    NEED(1);
    struct stat st;
    if (fstat(INT(0), &st) < 0)
        return fail(errno);
    struct hot *h = find_hot(st.st_dev, st.st_ino);
    if (!h || h->fd < 0)
        Py_RETURN_NONE;
    return Py_BuildValue("(KK)", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
}

FUNC(queue_fork) /* (thread, child process, its thread, whether it stays stopped) */
{
    NEED(4);
    THR(0);
    STOPPED;
    struct prc *child = get_prc(args[1]);
    struct thr *ct = get_thr(args[2]);
    if (!child || !ct)
        return NULL;
    NEED_FRAME;
    struct prc *p = prcs[t->prc];
    p->forks_blank = INT(3);
    if (INT(3) && !strict_mode)
        keep_hot(t);
    child->fork_fd = rotate_fd(p);
    child->parent = p->id;
    child->next_fd = p->next_fd;
    /* What the zygote's batch brings the child has, if it is born at all.  One that was needed before its turn came has
     * a queue with a record of its own; others get theirs when the clone is let through. */
    for (int i = 0; i < KEPT_FDS && INT(3); i++)
        if (!ct->op_count) {
            child->kept[i] = p->kept[i];
            child->kept_stamp = p->kept_stamp;
            if (child->kept[i].state == COMING)
                child->kept[i].state = USABLE;
        } else if (p->kept[i].is_open) {
            child->kept[i].is_open = true;
        }
    struct hop *h = add_op(t);
    h->op.nr = SYS_clone;
    h->op.args[0] = CLONE_PARENT | SIGCHLD;
    h->op.extra = child->fork_fd;
    h->notified = true;
    h->child = ct->id;
    h->child_serial = ct->serial;
    h->child_ident = child->ident;
    h->parked = INT(3);
    Py_RETURN_NONE;
}

FUNC(queue_clone) /* (thread, new thread of the same process) */
{
    NEED(2);
    THR(0);
    STOPPED;
    struct thr *n = get_thr(args[1]);
    if (!n)
        return NULL;
    NEED_FRAME;
    uint64_t slot = REGION_BASE + n->slotno * SLOT_SIZE;
    struct hop *h = add_op(t);
    h->op.nr = SYS_clone;
    h->op.args[0] = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID;
    h->op.args[1] = slot + frame_offset;
    h->op.args[2] = slot + offsetof(struct slot, tid);
    h->notified = true;
    h->child = n->id;
    h->child_serial = n->serial;
    Py_RETURN_NONE;
}

FUNC(cancel_ops) /* (thread): what is queued and not sent, births included */
{
    NEED(1);
    THR(0);
    STOPPED;
    drop_ops(t, 0);
    if (t->holds & OWNS_COMING)
        settle(t);
    t->holds &= ~OWNS_COMING;
    t->op_count = t->sent = t->matched = t->round_start = t->must_match = 0;
    t->clone_at = t->unpark = -1;
    Py_RETURN_NONE;
}

FUNC(get_regs) /* (thread) -> 20 integers, see Registers */
{
    NEED(1);
    THR(0);
    STOPPED;
    uint64_t regs[REG_COUNT];
    if (t->has_frame) {
        memcpy(regs, regs_of(t), sizeof regs);
    } else {
        const volatile struct slot *s = t->slot;
        const volatile uint64_t *saved = s->call_regs;
        const volatile int64_t *a = s->args;
        uint64_t flags = saved[CR_FLAGS];
        uint64_t made[REG_COUNT] = {
            a[4], a[5], a[3], 0x202, saved[CR_R12], saved[CR_R13], saved[CR_R14], saved[CR_R15], a[0], a[1],
            saved[CR_RBP], saved[CR_RBX], a[2], saved[CR_RAX], saved[CR_RIP], saved[CR_RSP], saved[CR_RIP],
            0x202 | (flags >> 8 & 0xd5) | (flags & 1) << 11};
        memcpy(regs, made, sizeof regs);
    }
    if (t->has_result)
        regs[RAX_INDEX] = t->result;
    PyObject *tuple = PyTuple_New(REG_COUNT + 2);
    if (!tuple)
        return NULL;
    for (int i = 0; i < REG_COUNT; i++)
        PyTuple_SET_ITEM(tuple, i, PyLong_FromUnsignedLongLong(regs[i]));
    uint64_t fs = READ_ONCE(t->slot->fs_base);
    PyTuple_SET_ITEM(tuple, REG_COUNT, PyLong_FromUnsignedLongLong(fs >> 47 ? 0 : fs));
    PyTuple_SET_ITEM(tuple, REG_COUNT + 1, PyLong_FromUnsignedLongLong(guest_gs(t)));
    return tuple;
}

FUNC(set_regs) /* (thread, 20 integers) */
{
    NEED(21);
    THR(0);
    STOPPED;
    NEED_FRAME;
    uint64_t fs = U64(19), gs = U64(20), *regs = regs_of(t);
    if (fs >> 47 || gs >> 47) {
        PyErr_SetString(PyExc_ValueError, "fs_base and gs_base must be user addresses");
        return NULL;
    }
    for (int i = 0; i < REG_COUNT; i++)
        regs[i] = U64(1 + i);
    if (PyErr_Occurred())
        return NULL;
    t->has_result = false;
    if (fs != t->slot->fs_base || gs != guest_gs(t)) {
        t->slot->fs_base = fs;
        t->slot->gs_base = gs;
        t->base_changed = true;
    }
    Py_RETURN_NONE;
}

FUNC(get_fpstate) /* (thread) -> bytes */
{
    NEED(1);
    THR(0);
    STOPPED;
    NEED_FRAME;
    return PyBytes_FromStringAndSize((char *)t->slot + fp_offset, fp_size);
}

FUNC(set_fpstate) /* (thread, bytes) -> bool; empty: the initial state */
{
    NEED(2);
    THR(0);
    STOPPED;
    NEED_FRAME;
    char *data, *to = (char *)t->slot + fp_offset, *first = pristine + (fp_offset - frame_offset);
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(args[1], &data, &length) < 0)
        return NULL;
    if (!length) {
        memcpy(to, first, fp_size);
        Py_RETURN_TRUE;
    }
    if (length != (Py_ssize_t)fp_size || length < 580)
        Py_RETURN_FALSE;
    /* Beyond the legacy area: the software bytes, the magic behind, and nothing that XRSTOR would refuse. */
    uint64_t have, may;
    uint32_t mxcsr, mask;
    memcpy(&have, data + 512, 8);
    memcpy(&may, first + 472, 8);
    memcpy(&mxcsr, data + 24, 4);
    memcpy(&mask, first + 28, 4);
    static const char zero[48];
    if (memcmp(data + 464, first + 464, 48) || memcmp(data + fp_size - 4, first + fp_size - 4, 4) || (have & ~may) ||
        (mxcsr & ~(mask ? mask : 0xffbf)) || memcmp(data + 520, zero, 48))
        Py_RETURN_FALSE;
    memcpy(to, data, fp_size);
    Py_RETURN_TRUE;
}

/* Resume a thread for Python: the first since the last event may have its reply held back. */
static void go_on(struct thr *t)
{
    bool was_deferred = deferred != NULL;
    may_defer = !was_deferred;
    start_running(t);
    may_defer = false;
    if (was_deferred)
        flush_deferred();
}

FUNC(wait_long) /* (thread): its call blocks, so it need not spin */
{
    NEED(1);
    THR(0);
    uint32_t expected = ST_REQUEST;
    if (!t->running && !t->held)
        __atomic_compare_exchange_n(&t->slot->state, &expected, ST_WAIT, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    Py_RETURN_NONE;
}

FUNC(park) /* (thread) -> whether its host thread waits from now on until `renew` */
{
    NEED(1);
    THR(0);
    if (t->running || t->held || !t->has_frame || t->op_count || t->rec_count || prcs[t->prc]->dead || t->exiting)
        Py_RETURN_FALSE;
    t->is_parked = true;
    uint32_t expected = ST_REQUEST;
    __atomic_compare_exchange_n(&t->slot->state, &expected, ST_WAIT, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    t->is_patched = false;
    Py_RETURN_TRUE;
}

FUNC(unpark) /* (parked thread): it can be given orders again */
{
    NEED(1);
    THR(0);
    if (!t->is_parked)
        return PyErr_Format(PyExc_RuntimeError, "thread %d is not parked", t->id);
    t->is_parked = false;
    Py_RETURN_NONE;
}

FUNC(renew) /* (parked thread, thread whose registers it copies): it starts when that one is resumed */
{
    NEED(2);
    THR(0);
    struct thr *from = get_thr(args[1]);
    if (!from)
        return NULL;
    if (!t->is_parked || !from->has_frame || from->prc != t->prc || from->unpark >= 0)
        return PyErr_Format(PyExc_RuntimeError, "thread %d cannot be renewed", t->id);
    t->is_parked = false;
    fill_frame(t, from);
    from->unpark = t->id;
    from->unpark_serial = t->serial = ++serials;
    Py_RETURN_NONE;
}

FUNC(resume) /* (thread) */
{
    NEED(1);
    THR(0);
    STOPPED;
    go_on(t);
    Py_RETURN_NONE;
}

FUNC(run_ops) /* (thread): carry out what is queued, then stop again */
{
    NEED(1);
    THR(0);
    STOPPED;
    t->owes = OWES_DONE;
    start_running(t);
    Py_RETURN_NONE;
}

FUNC(swap) /* (thread, address, old, new, SWAP_* or 0): run_ops, then change a word of the guest's */
{
    NEED(5);
    THR(0);
    STOPPED;
    struct slot *s = t->slot;
    s->swap_addr = U64(1);
    s->swap_old = (uint32_t)U64(2);
    s->swap_new = (uint32_t)U64(3);
    s->swap_op = (uint32_t)U64(4);
    s->swap_failed = 1;
    t->swaps = true;
    t->owes = OWES_DONE;
    start_running(t);
    Py_RETURN_NONE;
}

FUNC(call_count) /* (process) -> how many system calls have come from it */
{
    NEED(1);
    PRC(0);
    return PyLong_FromUnsignedLongLong(p->calls);
}

FUNC(swapped) /* (thread) -> what the word held, -1 if it could not be accessed: the guest's word for it */
{
    NEED(1);
    THR(0);
    STOPPED;
    uint32_t found = READ_ONCE(t->slot->swap_old);
    return PyLong_FromLongLong(READ_ONCE(t->slot->swap_failed) ? -1 : (long long)found);
}

FUNC(ret) /* (thread, value) */
{
    NEED(2);
    THR(0);
    STOPPED;
    t->result = (int64_t)U64(1);
    t->has_result = true;
    go_on(t);
    Py_RETURN_NONE;
}

/* (thread, value): in a call from a patched site: as ret, then stop with EV_INTERRUPTED and a signal frame.  Where there
 * is a frame: carry out what is queued, then stop again as run_ops does. */
FUNC(stop)
{
    NEED(2);
    THR(0);
    STOPPED;
    t->result = (int64_t)U64(1);
    t->has_result = true;
    if (t->has_frame) {
        t->owes = OWES_DONE;
    } else {
        t->owes = OWES_STOP;
        t->leave_flags = RF_STOP;
        t->irq_since = now_ns();
        t->irq_wanted = true;
    }
    start_running(t);
    Py_RETURN_NONE;
}

FUNC(retry_with_frame) /* (thread): in a call from a patched site: make it again, with a signal frame */
{
    NEED(1);
    THR(0);
    STOPPED;
    if (t->has_frame || t->op_count)
        return PyErr_Format(PyExc_RuntimeError, "thread %d cannot make its call again", t->id);
    t->has_result = false;
    t->leave_flags = RF_TRAP;
    start_running(t);
    Py_RETURN_NONE;
}

FUNC(has_frame) /* (thread) */
{
    NEED(1);
    THR(0);
    return PyBool_FromLong(t->has_frame);
}

FUNC(has_orders) /* (thread): whether its reply has operations or copies from windows to carry out */
{
    NEED(1);
    THR(0);
    return PyBool_FromLong(t->op_count || t->holds & HOLD_WINDOWS);
}

FUNC(set_patching) /* (whether threads that start from nothing may call without a trap) */
{
    NEED(1);
    is_patching = INT(0);
    Py_RETURN_NONE;
}

FUNC(set_patched) /* (thread, bool) */
{
    NEED(2);
    THR(0);
    bool wanted = INT(1) && is_patching;
    if (t->is_patched != wanted) {
        t->slot->gs_base = guest_gs(t);
        t->is_patched = wanted;
        t->base_changed = true;
    }
    Py_RETURN_NONE;
}

FUNC(set_action) /* (number, action) */
{
    NEED(2);
    unsigned nr = INT(0), action = INT(1);
    if (nr >= sizeof info->actions || action >= ACT_ANSWER + AN_COUNT)
        return fail(EINVAL);
    info->actions[nr] = action;
    Py_RETURN_NONE;
}

FUNC(set_answers) /* (thread, bool, AN_COUNT integers) */
{
    NEED(2 + AN_COUNT);
    THR(0);
    t->slot->can_answer = 0;
    for (int i = 0; i < AN_COUNT; i++)
        t->slot->answers[i] = (uint32_t)U64(2 + i);
    if (INT(1))
        __atomic_store_n(&t->slot->can_answer, 1, __ATOMIC_RELEASE);
    Py_RETURN_NONE;
}

FUNC(has_pending_ops) /* (process) */
{
    NEED(1);
    PRC(0);
    return PyBool_FromLong(p->held_count || ops_pending(p));
}

FUNC(wait_event) /* (timeout in ns, deadline in ns of CLOCK_MONOTONIC if the timeout is negative) -> 9 integers, or None */
{
    NEED(2);
    struct event e;
    int got = next_event(&e, (int64_t)U64(0), (int64_t)U64(1));
    if (held_cpu_ns)
        cpu_left = thread_cpu_ns();
    if (got < 0)
        return NULL;
    last_kind = got ? e.v[0] : 0;
    last_number = e.v[2];
    if (!got)
        Py_RETURN_NONE;
    stat_events++;
    PyObject *tuple = PyTuple_New(9);
    if (!tuple)
        return NULL;
    for (int i = 0; i < 9; i++)
        PyTuple_SET_ITEM(tuple, i, PyLong_FromLongLong(e.v[i]));
    return tuple;
}

/* (ticks, ns of processor time or 0): tell as event 9 of longer times from a return of wait_event to its next call */
FUNC(set_meter)
{
    NEED(2);
    held_ticks = U64(0);
    held_cpu_ns = (int64_t)U64(1);
    left_at = ticks();
    cpu_left = thread_cpu_ns();
    Py_RETURN_NONE;
}

FUNC(is_running) /* (thread) */
{
    NEED(1);
    THR(0);
    return PyBool_FromLong(t->running || t->held);
}

FUNC(interrupt) /* (thread) */
{
    NEED(1);
    THR(0);
    if (!t->running && !t->held)
        Py_RETURN_NONE;
    if (!t->irq_wanted)
        t->irq_since = now_ns();
    t->irq_wanted = true;
    if (!send_interrupt(t) && !t->irq_unsent) {
        t->irq_unsent = true;
        irq_unsent_total++;
    }
    Py_RETURN_NONE;
}

FUNC(overdue) /* (limit in ns) -> idents of processes that owe an answer for longer */
{
    NEED(1);
    uint64_t limit = U64(0), now = now_ns();
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < prc_count; i++) {
        struct prc *p = prcs[i];
        if (!p->used || p->dead)
            continue;
        bool late = p->held_count + (p->adopting >= 0) && ops_pending(p) && now - p->op_since > limit;
        for (int k = 0; k < p->slot_high && !late; k++)
            late = p->slots[k] && p->slots[k]->irq_wanted && p->slots[k]->running && now - p->slots[k]->irq_since > limit;
        if (late) {
            PyObject *o = PyLong_FromLongLong(p->ident);
            if (!o || PyList_Append(list, o) < 0)
                Py_CLEAR(list);
            Py_XDECREF(o);
        }
    }
    return list;
}

FUNC(kill_process) /* (process) */
{
    NEED(1);
    PRC(0);
    if (p->dead)
        Py_RETURN_NONE;
    struct orphan *o = orphan_of(p);
    if (p->pid > 0 && p->adopting >= 0 && p->cloned) {
        kill(p->pid, SIGKILL); /* its child may be born, and is still of its group */
    } else if (p->pid > 0) {
        if (kill(-p->pid, SIGKILL) < 0) /* its group, and itself in it; the zygote has none */
            kill(p->pid, SIGKILL);
    } else {
        p->kill_wanted = true;
        if (o)
            kill(-o->group, SIGKILL);
    }
    Py_RETURN_NONE;
}

FUNC(process_pid) /* (process) -> host pid, or -1 */
{
    NEED(1);
    PRC(0);
    return PyLong_FromLong(p->pid > 0 ? p->pid : -1);
}

FUNC(thread_tid) /* (thread) -> its id on the host, proven to be of its process, or 0 */
{
    NEED(1);
    THR(0);
    struct prc *p = prcs[t->prc];
    int tid = t->tid;
    if (!tid && p->pid > 0) {
        tid = READ_ONCE(t->slot->tid);
        if (tid <= 0 || hash_find(tid) || syscall(SYS_tgkill, p->pid, tid, 0) < 0)
            tid = 0;
    }
    return PyLong_FromLong(tid);
}

FUNC(barrier) /* () -> whether every guest thread that runs has executed a memory barrier (the stub registers for it) */
{
    NEED(0);
    return PyBool_FromLong(syscall(SYS_membarrier, 2, 0, 0) == 0); /* MEMBARRIER_CMD_GLOBAL_EXPEDITED */
}

FUNC(region_bytes) /* (process) -> what its region takes of the host's memory: a guest can fill it */
{
    NEED(1);
    PRC(0);
    struct stat st;
    return PyLong_FromLongLong(fstat(p->region_fd, &st) < 0 ? 0 : (long long)st.st_blocks * 512);
}

FUNC(cpu_time_ns) /* (process) -> user and system time together */
{
    NEED(1);
    PRC(0);
    clockid_t clock;
    struct timespec t;
    if (p->pid <= 0 || clock_getcpuclockid(p->pid, &clock) || clock_gettime(clock, &t) < 0)
        return PyLong_FromLong(0);
    return PyLong_FromLongLong(t.tv_sec * 1000000000LL + t.tv_nsec);
}

/* The word's file must be one that nobody but the caller cuts off: beyond its end there is SIGBUS. */
FUNC(swap_shared) /* (memfd, offset, old, new) -> the word found there, -1 if there is none; one atomic instruction */
{
    NEED(4);
    int fd = INT(0);
    uint64_t offset = U64(1);
    uint32_t found = (uint32_t)U64(2), new = (uint32_t)U64(3);
    struct stat st;
    if (PyErr_Occurred() || offset & 3 || fstat(fd, &st) < 0 || st.st_size < 4 || offset > (uint64_t)st.st_size - 4)
        return PyErr_Occurred() ? NULL : PyLong_FromLong(-1);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(offset & ~4095ULL));
    if (page == MAP_FAILED)
        return PyLong_FromLong(-1);
    __atomic_compare_exchange_n((uint32_t *)(page + (offset & 4095)), &found, new, false, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
    munmap(page, 4096);
    return PyLong_FromUnsignedLong(found);
}

FUNC(probe_memory) /* (process) -> 0, or why process_vm_readv does not work */
{
    NEED(1);
    PRC(0);
    uint64_t word;
    struct iovec local = {&word, 8}, remote = {(void *)STUB_BASE, 8};
    return PyLong_FromLong(process_vm_readv(p->pid, &local, 1, &remote, 1, 0) == 8 ? 0 : errno);
}

static PyObject *read_bytes(struct prc *p, uint64_t addr, Py_ssize_t length)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, length);
    if (!bytes)
        return NULL;
    ssize_t n = length ? vm_read(p, PyBytes_AS_STRING(bytes), addr, length) : 0;
    if (n < 0)
        n = 0;
    if (n != length)
        _PyBytes_Resize(&bytes, n);
    return bytes;
}

#define MAX_READ (1LL << 31)

FUNC(read_process) /* (process, address, length) -> bytes */
{
    NEED(3);
    PRC(0);
    uint64_t length = U64(2);
    if (length > MAX_READ)
        return fail(EINVAL);
    if (p->rec_threads)
        flush_prc(p);
    return read_bytes(p, U64(1), length);
}

FUNC(write_process) /* (process, address, bytes-like) -> bytes written */
{
    NEED(3);
    PRC(0);
    Py_buffer b;
    if (PyObject_GetBuffer(args[2], &b, PyBUF_SIMPLE) < 0)
        return NULL;
    if (p->rec_threads)
        flush_prc(p);
    ssize_t n = b.len ? vm_write(p, b.buf, U64(1), b.len) : 0;
    PyBuffer_Release(&b);
    return PyLong_FromSsize_t(n < 0 ? 0 : n);
}

static const char *prefetched(struct thr *t, uint64_t addr, uint64_t length)
{
    for (int i = 0; i < t->prefetch_count; i++) {
        struct copy *c = &t->prefetch[i];
        if (addr >= c->addr && length <= c->length && addr - c->addr <= c->length - length)
            return (char *)t->slot + DATA_OFFSET + c->offset + (addr - c->addr);
    }
    return NULL;
}

FUNC(read_thread) /* (thread, address, length) -> bytes */
{
    NEED(3);
    THR(0);
    uint64_t addr = U64(1), length = U64(2);
    struct prc *p = prcs[t->prc];
    if (length > MAX_READ)
        return fail(EINVAL);
    if (p->rec_threads)
        flush_prc(p);
    const char *have = prefetched(t, addr, length);
    if (have)
        return PyBytes_FromStringAndSize(have, length);
    return read_bytes(p, addr, length);
}

FUNC(read_cstring) /* (thread, address, limit) -> bytes or None */
{
    NEED(3);
    THR(0);
    uint64_t addr = U64(1), limit = U64(2);
    struct prc *p = prcs[t->prc];
    if (limit > 1 << 20)
        return fail(EINVAL);
    if (p->rec_threads)
        flush_prc(p);
    for (int i = 0; i < t->prefetch_count; i++) {
        struct copy *c = &t->prefetch[i];
        if (addr < c->addr || addr - c->addr >= c->length)
            continue;
        char local[4096];
        uint64_t room = c->length - (addr - c->addr);
        if (room > sizeof local)
            room = sizeof local;
        memcpy(local, (char *)t->slot + DATA_OFFSET + c->offset + (addr - c->addr), room);
        char *end = memchr(local, 0, room);
        if (end && (uint64_t)(end - local) <= limit)
            return PyBytes_FromStringAndSize(local, end - local);
        if (limit <= room)
            return PyBytes_FromStringAndSize(local, limit);
    }
    char *buffer = malloc(limit + 1);
    if (!buffer)
        return PyErr_NoMemory();
    uint64_t used = 0;
    PyObject *result = NULL;
    while (used < limit) {
        uint64_t chunk = 4096 - ((addr + used) & 4095); /* a page at a time: the next may not exist */
        if (chunk > limit - used)
            chunk = limit - used;
        ssize_t n = vm_read(p, buffer + used, addr + used, chunk);
        if (n <= 0) {
            free(buffer);
            Py_RETURN_NONE;
        }
        char *end = memchr(buffer + used, 0, n);
        if (end) {
            result = PyBytes_FromStringAndSize(buffer, end - buffer);
            break;
        }
        used += n;
    }
    if (!result)
        result = PyBytes_FromStringAndSize(buffer, used);
    free(buffer);
    return result;
}

/* Write to a thread's memory now, or when it runs; how much was written or deferred. */
static Py_ssize_t put(struct thr *t, uint64_t addr, const char *from, Py_ssize_t length)
{
    struct prc *p = prcs[t->prc];
    for (int i = 0; i < t->prefetch_count; i++) /* what is written is no longer what the call saw */
        if (addr < t->prefetch[i].addr + t->prefetch[i].length && t->prefetch[i].addr < addr + (uint64_t)length)
            t->prefetch[i].length = 0;
    if (!guest_range(addr, length) || !length)
        return 0;
    if (!t->running && !t->held) {
        if (t->op_count || (length <= 4096 && t->data_used + length <= DATA_SIZE && !t->wbuf_used && t->rec_count < MAX_COPIES)) {
            defer(t, addr, from, length);
            return length;
        }
        /* Writes keep their order: what is deferred goes first. */
        if (p->rec_threads)
            flush_prc(p);
    }
    ssize_t n = vm_write(p, from, addr, length);
    return n < 0 ? 0 : n;
}

FUNC(write_thread) /* (thread, address, bytes-like) -> bytes written or deferred */
{
    NEED(3);
    THR(0);
    Py_buffer b;
    if (PyObject_GetBuffer(args[2], &b, PyBUF_SIMPLE) < 0)
        return NULL;
    Py_ssize_t length = put(t, U64(1), b.buf, b.len);
    PyBuffer_Release(&b);
    return PyLong_FromSsize_t(length);
}

/* (thread, address, dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, atime, mtime, ctime) -> whether all of
 * struct stat was written or deferred.  The times are nanoseconds since 1970, not before it. */
FUNC(write_stat)
{
    NEED(15);
    THR(0);
    uint64_t atime = U64(12), mtime = U64(13), ctime = U64(14);
    struct stat st = {
        .st_dev = U64(2), .st_ino = U64(3), .st_nlink = U64(4), .st_mode = U64(5), .st_uid = U64(6), .st_gid = U64(7),
        .st_rdev = U64(8), .st_size = U64(9), .st_blksize = U64(10), .st_blocks = U64(11),
        .st_atim = {atime / 1000000000, atime % 1000000000}, .st_mtim = {mtime / 1000000000, mtime % 1000000000},
        .st_ctim = {ctime / 1000000000, ctime % 1000000000},
    };
    if (PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(put(t, U64(1), (const char *)&st, sizeof st) == sizeof st);
}

static ssize_t fd_read(int fd, int64_t offset, void *to, size_t length, int flags)
{
    struct iovec v = {to, length};
    ssize_t n;
    do
        n = flags ? preadv2(fd, &v, 1, offset, flags) : offset < 0 ? read(fd, to, length) : pread(fd, to, length, offset);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t fd_write(int fd, int64_t offset, const void *from, size_t length, int flags)
{
    struct iovec v = {(void *)from, length};
    ssize_t n;
    do
        n = flags ? pwritev2(fd, &v, 1, offset, flags)
                  : offset < 0 ? write(fd, from, length) : pwrite(fd, from, length, offset);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

#define CHUNK (1 << 20)
static char *scratch;

FUNC(read_fd_into) /* (thread, fd, offset, address, length, flags, key) -> bytes or -errno */
{
    NEED(7);
    THR(0);
    STOPPED;
    struct prc *p = prcs[t->prc];
    int fd = INT(1), flags = INT(5);
    int64_t offset = (int64_t)U64(2);
    uint64_t addr = U64(3), length = U64(4), done = 0;
    if (!guest_range(addr, length))
        return PyLong_FromLong(-EFAULT);
    int64_t from_window = read_window(t, fd, U64(6), offset, addr, length);
    if (from_window >= 0)
        return PyLong_FromLongLong(from_window);
    if (length <= DATA_SIZE && t->data_used + length > DATA_SIZE && !t->op_count && !t->rec_count) {
        t->data_used = 0; /* the prefetched data has served */
        t->prefetch_count = 0;
    }
    if (length <= DATA_SIZE - t->data_used && !t->wbuf_used && t->rec_count < MAX_COPIES) {
        /* Straight into the slot; the stub copies it out. */
        ssize_t n = fd_read(fd, offset, (char *)t->slot + DATA_OFFSET + t->data_used, length, flags);
        if (n > 0)
            defer(t, addr, NULL, n);
        return PyLong_FromSsize_t(n);
    }
    if (p->rec_threads)
        flush_prc(p);
    if (!scratch && !(scratch = malloc(CHUNK)))
        return PyErr_NoMemory();
    while (done < length) {
        size_t want = length - done < CHUNK ? length - done : CHUNK;
        ssize_t n = fd_read(fd, offset < 0 ? offset : offset + (int64_t)done, scratch, want, flags);
        if (n <= 0)
            return PyLong_FromLongLong(done ? (int64_t)done : n);
        ssize_t put = vm_write(p, scratch, addr + done, n);
        if (put < n) {
            done += put > 0 ? put : 0;
            return PyLong_FromLongLong(done ? (int64_t)done : -EFAULT);
        }
        done += n;
        if ((size_t)n < want)
            break;
    }
    return PyLong_FromUnsignedLongLong(done);
}

FUNC(write_fd_from) /* (thread, fd, offset, address, length, flags) -> bytes or -errno */
{
    NEED(6);
    THR(0);
    STOPPED;
    struct prc *p = prcs[t->prc];
    int fd = INT(1), flags = INT(5);
    int64_t offset = (int64_t)U64(2);
    uint64_t addr = U64(3), length = U64(4), done = 0;
    if (p->rec_threads)
        flush_prc(p);
    if (!readable_range(addr, length))
        return PyLong_FromLong(-EFAULT);
    const char *have = prefetched(t, addr, length);
    if (have)
        return PyLong_FromSsize_t(fd_write(fd, offset, have, length, flags));
    if (!scratch && !(scratch = malloc(CHUNK)))
        return PyErr_NoMemory();
    do {
        size_t want = length - done < CHUNK ? length - done : CHUNK;
        ssize_t got = want ? vm_read(p, scratch, addr + done, want) : 0;
        if (got < 0 || (!got && want))
            return PyLong_FromLongLong(done ? (int64_t)done : -EFAULT);
        ssize_t n = fd_write(fd, offset < 0 ? offset : offset + (int64_t)done, scratch, got, flags);
        if (n < 0)
            return PyLong_FromLongLong(done ? (int64_t)done : n);
        done += n;
        if (n < got || (size_t)got < want)
            break;
    } while (done < length);
    return PyLong_FromUnsignedLongLong(done);
}

FUNC(forget_prefetched) /* (thread) */
{
    NEED(1);
    THR(0);
    STOPPED;
    t->prefetch_count = 0;
    Py_RETURN_NONE;
}

FUNC(set_prefetch) /* (number, index, kind, argument, count argument, value, cap) */
{
    NEED(7);
    unsigned nr = INT(0), index = INT(1);
    if (nr >= 512 || index >= MAX_PREFETCH)
        return fail(EINVAL);
    info->prefetch[nr][index] = (struct prefetch){INT(2), INT(3), INT(4), 0, INT(5), INT(6)};
    Py_RETURN_NONE;
}

FUNC(control_fd) /* (operation: 1 add, 2 remove, 3 modify; fd, token, events) */
{
    NEED(4);
    int op = INT(0), fd = INT(1);
    if (fd < 0)
        return fail(EBADF);
    struct epoll_event e = {INT(3), {.u64 = (uint32_t)fd}};
    if (epoll_ctl(epoll_fd, op, fd, &e) < 0) {
        if (op == EPOLL_CTL_DEL && fd < fd_room)
            fd_tokens[fd] = NO_TOKEN;
        return fail(errno);
    }
    int old = fd_room;
    fd_tokens = grow(fd_tokens, &fd_room, fd + 1, sizeof *fd_tokens);
    for (int i = old; i < fd_room; i++)
        fd_tokens[i] = NO_TOKEN;
    fd_tokens[fd] = op == EPOLL_CTL_DEL ? NO_TOKEN : (int64_t)U64(2);
    Py_RETURN_NONE;
}

FUNC(stats) /* () -> (events, sleeps, notifications, refused, processes ended for what they said) */
{
    NEED(0);
    return Py_BuildValue("KKKKK", stat_events, stat_sleeps, stat_notif, stat_denied, stat_liars);
}

FUNC(use_proc) /* (descriptor of a procfs that counts processes as we do, or -1) */
{
    NEED(1);
    proc_dir = INT(0);
    Py_RETURN_NONE;
}

FUNC(counts) /* () -> (processes, threads, operations that owe a descriptor, held, owing), to find leaks */
{
    NEED(0);
    int held = 0, descriptors = 0;
    for (int i = 0; i < thr_count; i++) {
        struct thr *t = thrs[i];
        held += t->used && t->held;
        for (int k = 0; k < t->op_count; k++)
            descriptors += (t->ops[k].fd >= 0) + t->ops[k].gift_count;
    }
    return Py_BuildValue("iiiiii", prc_count - prc_free_count, thr_count - thr_free_count, descriptors, held,
                         owing + newborn + orphan_count, held_total);
}

FUNC(close_all) /* (): forget everything; every guest process is dead */
{
    NEED(0);
    for (int i = 0; i < prc_count; i++) {
        if (prcs[i]->used) {
            munmap(prcs[i]->region, REGION_SIZE);
            close(prcs[i]->region_fd);
        }
        free(prcs[i]);
    }
    for (int i = 0; i < thr_count; i++) {
        drop_ops(thrs[i], thrs[i]->op_count);
        free(thrs[i]->ops);
        free(thrs[i]->recs);
        free(thrs[i]->wbuf);
        free(thrs[i]);
    }
    prc_count = prc_free_count = thr_count = thr_free_count = 0;
    run_count = run_next = queue_head = queue_count = ready_head = ready_count = 0;
    bell_count = ops_out = held_total = irq_unsent_total = 0;
    is_sync = false;
    newborn = owing = orphan_count = 0;
    proc_dir = -1;
    deferred = NULL;
    deferred_wake_count = delegated_count = 0;
    if (spare_fd >= 0) {
        munmap(spare_region, REGION_SIZE);
        close(spare_fd);
    }
    spare_fd = -1;
    spare_used = false;
    for (int i = 0; i < HOT_FILES; i++)
        if (hots[i].count && hots[i].fd >= 0)
            close(hots[i].fd);
    memset(hots, 0, sizeof hots);
    memset(tid_hash, 0, sizeof tid_hash);
    for (int i = 0; i < fd_room; i++)
        fd_tokens[i] = NO_TOKEN;
    if (info)
        munmap(info, INFO_SIZE);
    info = NULL;
    int *fds[] = {&listener, &sigchld_fd, &info_fd, &epoll_fd};
    for (int i = 0; i < 4; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
    Py_RETURN_NONE;
}

#define ROW(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}

static PyMethodDef methods[] = {
    ROW(setup), ROW(spawn), ROW(attach), ROW(take_pristine), ROW(ticks_now), ROW(has_fsgsbase), ROW(has_bmi2), ROW(set_spin), ROW(new_process), ROW(new_thread),
    ROW(thread_slot), ROW(discard_thread), ROW(discard_process), ROW(queue_op), ROW(queue_keep_only), ROW(hot_identity), ROW(queue_fork), ROW(queue_clone), ROW(cancel_ops),
    ROW(get_regs), ROW(set_regs), ROW(get_fpstate), ROW(set_fpstate), ROW(resume), ROW(run_ops), ROW(ret), ROW(wait_long), ROW(park), ROW(unpark), ROW(renew), ROW(stop), ROW(retry_with_frame),
    ROW(swap), ROW(swapped), ROW(call_count),
    ROW(has_frame), ROW(has_orders), ROW(set_patching), ROW(set_patched), ROW(set_action), ROW(set_answers), ROW(has_pending_ops),
    ROW(wait_event), ROW(set_meter), ROW(is_running), ROW(interrupt), ROW(overdue), ROW(kill_process), ROW(process_pid), ROW(thread_tid), ROW(barrier), ROW(region_bytes), ROW(probe_memory), ROW(swap_shared), ROW(cpu_time_ns),
    ROW(read_process), ROW(write_process), ROW(read_thread), ROW(read_cstring), ROW(write_thread), ROW(write_stat),
    ROW(read_fd_into), ROW(write_fd_from), ROW(set_prefetch), ROW(forget_prefetched), ROW(control_fd), ROW(stats), ROW(use_proc), ROW(counts), ROW(close_all),
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", "See systrap.py.", -1, methods};

/* For tests that forge them. */
#define SLOT_SYSNO offsetof(struct slot, sysno)
#define SLOT_OPS_DONE offsetof(struct slot, ops_done)
#define SLOT_TID offsetof(struct slot, tid)

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *m = PyModule_Create(&module);
    if (!m)
        return NULL;
#define CONSTANT(name)                                                                                          \
    if (PyModule_AddObject(m, #name, PyLong_FromUnsignedLongLong(name)) < 0)                                     \
    return NULL
    CONSTANT(MIN_ADDRESS);
    CONSTANT(MAX_ADDRESS);
    CONSTANT(STUB_BASE);
    CONSTANT(STUB_SIZE);
    CONSTANT(INFO_BASE);
    CONSTANT(VDSO_BASE);
    CONSTANT(VDSO_SIZE);
    CONSTANT(REGION_BASE);
    CONSTANT(REGION_SIZE);
    CONSTANT(SLOT_COUNT);
    CONSTANT(SLOT_SIZE);
    CONSTANT(DATA_SIZE);
    CONSTANT(CALL_ENTRY_OFFSET);
    CONSTANT(SLOT_SYSNO);
    CONSTANT(SLOT_OPS_DONE);
    CONSTANT(SLOT_TID);
    CONSTANT(BELL_ARG0);
    CONSTANT(BELL_ARG1);
    CONSTANT(MAX_MOVES);
    CONSTANT(MAX_FILTER);
    return m;
}
