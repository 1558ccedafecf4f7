/* Host operations that change the guest's memory, or make threads and processes: how the loop carries out each.
 *
 * The order of a change: the guest's entries are cleared, then the host's operation is done (its MMU notifier flushes
 * the range on every virtual CPU), then the new entries are written. A thread that touches the range in between faults
 * and waits for the lock.
 */
#include "kvm.h"

#define SIGMASK_ALL (~(1ULL << (SIGSEGV - 1) | 1ULL << (SIGBUS - 1)))

void lock_loop(void)
{
    uint32_t expected = 0;
    if (__atomic_compare_exchange_n(&LOOP->lock, &expected, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return;
    while (__atomic_exchange_n(&LOOP->lock, 2, __ATOMIC_ACQUIRE))
        call4(__NR_futex, &LOOP->lock, FUTEX_WAIT, 2, 0);
}

void unlock_loop(void)
{
    if (__atomic_exchange_n(&LOOP->lock, 0, __ATOMIC_RELEASE) == 2)
        call3(__NR_futex, &LOOP->lock, FUTEX_WAKE, 1);
}

/* A signal may come before the sentry has received the notification: EINTR. */
static long host_call(const struct op *op)
{
    long done;
    do
        done = call6(op->nr, op->args[0], op->args[1], op->args[2], op->args[3], op->args[4], op->args[5]);
    while (done == -4);
    return done;
}

/* A new thread or process. The lock is held, so that a child finds the loop's memory whole, and inherits no virtual CPU
 * that it would not know of; the child has this thread only, and begins in kvm_begin. */
static long clone_op(const struct op *op, struct ucontext *uc)
{
    bool is_thread = op->args[0] & CLONE_VM;
    uint64_t slotno = (op->args[1] - REGION_BASE) / SLOT_SIZE, mask = SIGMASK_ALL, old = 0;
    long done = -11; /* EAGAIN */
    call4(__NR_rt_sigprocmask, SIG_SETMASK, &mask, &old, 8);
    lock_loop();
    bool is_new = is_thread && slotno < SLOT_COUNT && !LOOP->cpus[slotno];
    if (!is_thread || (slotno < SLOT_COUNT && !(is_new && LOOP->vain >= MAX_VAIN) && make_cpu(slotno))) {
        LOOP->threads += is_thread;
        done = stub_clone(op, uc);
        if (is_thread && done < 0) {
            LOOP->threads--;
            LOOP->vain += is_new; /* forged orders can make no more of them */
        }
    }
    unlock_loop();
    call4(__NR_rt_sigprocmask, SIG_SETMASK, &old, 0, 8);
    return done;
}

/* The last thread ends the process: KVM may have given it a thread of the kernel's own, which would stay (vhost_task, for
 * large pages). */
static long exit_op(const struct op *op)
{
    lock_loop();
    bool is_last = !--LOOP->threads;
    unlock_loop();
    if (is_last)
        call1(__NR_exit_group, 0);
    long done = host_call(op);
    lock_loop();
    LOOP->threads++;
    unlock_loop();
    return done;
}

/* Whether other threads lose the right to execute code; the host, which never has that right, does not notice it. (A
 * thread's own virtual CPU flushes its translations after each halt: ask in ring0.c.) */
static bool loses_execution(uint64_t start, uint64_t end, uint32_t prot)
{
    if (LOOP->threads == 1)
        return false;
    for (uint32_t i = area_from(start); !(prot & PROT_EXEC) && i < LOOP->areas_used && LOOP->areas[i].start < end; i++)
        if (LOOP->areas[i].bits & PROT_EXEC)
            return true;
    return false;
}

static long mmap_op(const struct op *op, uint64_t start, uint64_t end)
{
    if (op->extra & PROT_ALL && !has_room(start))
        return -12; /* ENOMEM */
    clear_entries(start, end);
    long done = host_call(op);
    if (done >= 0)
        areas_set(start, end, (op->extra & PROT_ALL) | (op->args[3] & MAP_ANONYMOUS ? 0 : AREA_FILE));
    fill_entries(start, end);
    return done;
}

static long munmap_op(const struct op *op, uint64_t start, uint64_t end)
{
    clear_entries(start, end);
    long done = host_call(op);
    if (done >= 0)
        areas_remove(start, end);
    else
        fill_entries(start, end);
    return done;
}

static long mprotect_op(const struct op *op, uint64_t start, uint64_t end)
{
    bool flushes = loses_execution(start, end, op->extra);
    clear_entries(start, end);
    long done = host_call(op);
    if (done >= 0)
        areas_change(start, end, PROT_ALL, op->extra & PROT_ALL);
    fill_entries(start, end);
    if (done >= 0 && flushes)
        flush_all();
    return done;
}

static long mremap_op(const struct op *op, uint64_t start, uint64_t end)
{
    uint64_t length = (op->args[2] + PAGE - 1) & ~(PAGE - 1), to = op->args[3] & MREMAP_FIXED ? op->args[4] : start;
    uint32_t at = area_from(start), bits = at < LOOP->areas_used ? LOOP->areas[at].bits : 0;
    bool stays = op->args[3] & MREMAP_DONTUNMAP || start == end; /* of no length: what is shared is mapped once more */
    if (to & (PAGE - 1) || !length || to >= MAX_ADDRESS || length > MAX_ADDRESS - to || (start == end && to == start))
        return -22;
    clear_entries(start, end);
    clear_entries(to, to + length);
    long done = host_call(op);
    if (done >= 0) {
        if (!stays)
            areas_remove(start, end);
        areas_set(to, to + length, bits);
    }
    fill_entries(start, end);
    fill_entries(to, to + length);
    return done;
}

/* The loop of a child leaves out the areas that a fork leaves out; KVM learns of all other advice from the host. */
static long madvise_op(const struct op *op, uint64_t start, uint64_t end)
{
    long done = host_call(op);
    if (done >= 0 && op->args[2] == MADV_DONTFORK)
        areas_change(start, end, AREA_NO_FORK, AREA_NO_FORK);
    else if (done >= 0 && op->args[2] == MADV_DOFORK)
        areas_change(start, end, AREA_NO_FORK, 0);
    return done;
}

/* Whether the stub could make this call on systrap, and the sentry would ever order it: an attacker who controls ring
 * 0 can write anything into a slot, but it never becomes a command to KVM, nor a change of the loop's own memory. */
static bool is_order(const struct op *op)
{
    uint64_t start = op->args[0];
    switch (op->nr) {
    case __NR_clone:
    case __NR_exit:
        return true;
    case __NR_close:
        return start >= FIRST_KEPT && start <= LAST_FD;
    case __NR_mmap:
        return start < MAX_ADDRESS || lies_in(start, op->args[1], WINDOW_BASE, WINDOWS * WINDOW_SIZE);
    case __NR_munmap: /* a range that is never mapped: a question of the sentry's (csrc/host/notify.c) */
        return start < MAX_ADDRESS || (start == MAX_ADDRESS && op->args[1] == PAGE);
    case __NR_mprotect:
    case __NR_madvise:
    case __NR_mremap:
        return start < MAX_ADDRESS;
    default:
        return false;
    }
}

/* Carry out an order of the sentry. */
long carry_out(const struct op *shared, struct ucontext *uc)
{
    const volatile uint64_t *from = (const volatile uint64_t *)shared;
    struct op op; /* read once: other threads' ring 0 could write there */
    for (uint64_t i = 0; i < sizeof op / 8; i++)
        ((uint64_t *)&op)[i] = from[i];
    if (!is_order(&op))
        return -1; /* EPERM */
    if (op.nr == __NR_clone)
        return clone_op(&op, uc);
    if (op.nr == __NR_exit)
        return exit_op(&op);
    uint64_t start = op.args[0], length = (op.args[1] + PAGE - 1) & ~(PAGE - 1);
    if (op.nr == __NR_close || start >= MAX_ADDRESS) /* windows, and ranges that are never mapped */
        return host_call(&op);
    if (start & (PAGE - 1) || (!length && (op.nr != __NR_mremap || op.args[1])) || length > MAX_ADDRESS - start)
        return -22; /* EINVAL */
    lock_loop();
    long done = -12; /* ENOMEM */
    if (!areas_have_room())
        ;
    else if (op.nr == __NR_mmap)
        done = mmap_op(&op, start, start + length);
    else if (op.nr == __NR_munmap)
        done = munmap_op(&op, start, start + length);
    else if (op.nr == __NR_mprotect)
        done = mprotect_op(&op, start, start + length);
    else if (op.nr == __NR_madvise)
        done = madvise_op(&op, start, start + length);
    else
        done = mremap_op(&op, start, start + length);
    unlock_loop();
    return done;
}
