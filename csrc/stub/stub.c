/* The stub: the only code of cloche that runs inside a guest process.
 *
 * Freestanding, no writable data, no floating point.  Everything it remembers is in the slot, which it finds by
 * masking the stack pointer. The sandbox's security does not depend on it (docs/design.md, I6): a guest may jump to
 * any of its instructions, so the seccomp filter admits only calls from here that are harmless or were ordered.
 */
#include "stub.h"

static inline struct slot *slot_of(const void *stack)
{
    return (struct slot *)((uint64_t)stack & ~(SLOT_SIZE - 1));
}

/* ENOSYS: no process holds the listener any more.  The filter turns exit_group into a kill. */
void ring(void)
{
    if (call2(__NR_sched_yield, BELL_ARG0, BELL_ARG1) == -38)
        call1(__NR_exit_group, 1);
}

/* Wait until the sentry has answered. */
static void wait_reply(volatile struct slot *slot)
{
    uint64_t start = __builtin_ia32_rdtsc();
    for (;;) {
        uint32_t expected = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);
        if (expected == ST_REPLY)
            return;
        if (expected != ST_WAIT && __builtin_ia32_rdtsc() - start < INFO->spin_ticks) {
            __builtin_ia32_pause();
            continue;
        }
        const volatile uint32_t *bell = &INFO->bells[slot->bell % BELLS];
        if (!__atomic_compare_exchange_n(&slot->state, &expected, ST_SLEEPING, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            continue;
        for (;;) {
            uint32_t value = __atomic_load_n(bell, __ATOMIC_ACQUIRE);
            if (__atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) != ST_SLEEPING)
                break;
            /* Without a pid namespace the stub does not end with the sentry: check now and then whether that still
             * exists. */
            int64_t timeout[2] = {60, 0};
            if (call4(__NR_futex, bell, FUTEX_WAIT, value, timeout) == -110)
                ring();
        }
        slot->state = ST_GUEST; /* tells the sentry that the wake-up has come */
        return;
    }
}

void post(volatile struct slot *slot, uint32_t kind)
{
    uint32_t cpu;
    __builtin_ia32_rdtscp(&cpu);
    slot->kind = kind | (cpu & 0xfff) << 16;
    /* A full barrier: either this load sees that the sentry sleeps, or its last scan sees the request. */
    __atomic_exchange_n(&slot->state, ST_REQUEST, __ATOMIC_SEQ_CST);
    if (INFO->asleep)
        ring();
}

#define SWAP_TRIES (1 << 20) /* of one instruction each, against other threads that keep changing the word */

/* Change the word: once, if it holds swap_old; or whatever it holds, until that succeeds -> whether it failed. */
static uint32_t swap(volatile struct slot *slot)
{
    for (uint32_t i = 0; i < SWAP_TRIES; i++) {
        uint32_t old = slot->swap_old, new = ((old & slot->swap_keep) + slot->swap_add) ^ slot->swap_flip;
        if (loop_swap((void *)slot->swap_addr, &slot->swap_old, new))
            return 1;
        if (!slot->swap_any || slot->swap_old == old)
            return 0;
    }
    return 1;
}

#ifndef KVM
static long carry_out(const struct op *op, struct ucontext *uc)
{
    if (op->nr == __NR_clone)
        return stub_clone(op, uc);
    long done;
    do /* in a patched call an interrupt may come before the sentry has received the notification: EINTR */
        done = call6(op->nr, op->args[0], op->args[1], op->args[2], op->args[3], op->args[4], op->args[5]);
    while (done == -4);
    return done;
}
#endif

/* Carry out replies until one lets the guest go on -> that one.  *result: the call's, where the reply has one. */
uint32_t serve(volatile struct slot *slot, struct ucontext *uc, int64_t *result)
{
    bool has_faulted = false, is_cut = false;
    uint32_t reply;
again:
    wait_reply(slot);
    reply = slot->reply;
    if (reply & RF_WAKE)
        for (uint32_t i = 0; i < MAX_WAKES; i++) {
            uint32_t bell = slot->wakes[i];
            if (bell == NO_BELL)
                break;
            call3(__NR_futex, &INFO->bells[bell % BELLS], FUTEX_WAKE, INT32_MAX);
        }
    uint32_t count = reply >> 16 & 0xff;
    for (uint32_t i = 0; i < count && i < MAX_OPS; i++) {
        struct op *op = (struct op *)&slot->ops[i];
        long done = carry_out(op, uc);
        if (done < 0 && done >= -4095 && op->nr != __NR_close) {
            slot->fail_index = i;
            slot->fail_errno = -done;
            slot->ops_done++;
            has_faulted = false;
            post(slot, K_OPS_FAILED);
            goto again;
        }
    }
    if (count) {
        __atomic_fetch_add(&slot->ops_done, 1, __ATOMIC_SEQ_CST);
        if (slot->ring && INFO->asleep)
            ring();
    }
    count = reply >> 24;
    for (uint32_t i = 0; i < count && i < MAX_COPIES; i++) {
        volatile struct copy *copy = &slot->copies[i];
        uint32_t offset = copy->offset;
        const char *from = offset & FROM_WINDOW ? (char *)WINDOW_BASE + (offset & ~FROM_WINDOW)
                                                : (char *)slot + DATA_OFFSET + offset;
        if (loop_copy((void *)copy->addr, from, copy->length)) {
            has_faulted = true;
            is_cut = is_cut || offset & FROM_WINDOW;
        }
    }
    if (reply & RF_SET_BASE) {
        __builtin_ia32_wrfsbase64(slot->fs_base);
        __builtin_ia32_wrgsbase64(slot->gs_base);
    }
    if (is_cut) {
        has_faulted = is_cut = false;
        post(slot, K_CUT);
        goto again;
    }
    if (reply & RF_SWAP)
        slot->swap_failed = swap(slot);
    if (reply & RF_MORE) {
        post(slot, K_MORE);
        goto again;
    }
    if (has_faulted)
        *result = -14;
    else if (reply & RF_RESULT)
        *result = slot->result;
    return reply;
}

/* Where a clone starts: on the frame that the sentry prepared in the child's own slot.  (With KVM: kvm_begin.) */
void stub_resume(struct ucontext *uc)
{
    serve(slot_of(uc), uc, (int64_t *)&uc->uc_mcontext.rax);
}

/* A call from a patched site: 0: go on behind it, 1: make it again with a signal frame, 2: stop behind it. */
long stub_called(volatile struct slot *slot)
{
    int64_t result = slot->sysno;
    prefetch(slot, result, (const int64_t *)slot->args);
    post(slot, K_CALL);
    uint32_t reply = serve(slot, 0, &result);
    slot->call_regs[CR_RAX] = result;
    return reply & RF_TRAP ? 1 : reply & RF_STOP ? 2 : 0;
}

/* The flags that stub_call saved as lahf and seto left them. */
static uint64_t saved_flags(volatile struct slot *slot, uint64_t now)
{
    uint64_t saved = slot->call_regs[CR_FLAGS];
    return (now & ~0x8d5UL) | (saved >> 8 & 0xd5) | (saved & 1) << 11;
}

static void set_arguments(volatile struct slot *slot, struct ucontext *uc)
{
    uc->uc_mcontext.rdi = slot->args[0];
    uc->uc_mcontext.rsi = slot->args[1];
    uc->uc_mcontext.rdx = slot->args[2];
    uc->uc_mcontext.r10 = slot->args[3];
    uc->uc_mcontext.r8 = slot->args[4];
    uc->uc_mcontext.r9 = slot->args[5];
}

/* A signal came in the code of a patched call: make the registers those before or behind the call.
 * False: in the middle of it, where the caller must wait until it is over. */
static bool leave_call(volatile struct slot *slot, struct ucontext *uc)
{
    char *ip = (char *)uc->uc_mcontext.rip;
    if (ip >= stub_call && ip < stub_call_saved) {
        uc->uc_mcontext.rip = ip == stub_call_trap_jump ? uc->uc_mcontext.r11 : uc->uc_mcontext.r11 - 2;
        return true;
    }
    if (ip >= stub_call_saved && ip < stub_call_enter) {
        if (ip >= stub_call_flags)
            uc->uc_mcontext.eflags = saved_flags(slot, uc->uc_mcontext.eflags);
        uc->uc_mcontext.rax = slot->call_regs[CR_RAX];
    } else if ((ip >= stub_leave && ip < stub_leave_end) || (ip >= stub_again && ip < stub_again_end)) {
        set_arguments(slot, uc);
        uc->uc_mcontext.eflags = saved_flags(slot, uc->uc_mcontext.eflags);
        uc->uc_mcontext.rax = slot->call_regs[CR_RAX];
    } else {
        return false;
    }
    uc->uc_mcontext.rsp = slot->call_regs[CR_RSP];
    uc->uc_mcontext.rip = slot->call_regs[CR_RIP];
    if (ip < stub_leave || ip >= stub_again)
        uc->uc_mcontext.rip -= 2;
    return true;
}

void stub_signal(int signo, siginfo_t *info, struct ucontext *uc)
{
    volatile struct slot *slot = slot_of(uc);
    uint64_t ip = uc->uc_mcontext.rip;
    if (signo == SIGSEGV || signo == SIGBUS) {
        const char *at = (const char *)ip, *fixup = 0; /* of the instructions that touch the guest's memory */
        if (at >= stub_copy_begin && at < stub_copy_end)
            fixup = stub_copy_fault;
        else if (at >= stub_string_begin && at < stub_string_end)
            fixup = stub_string_fault;
        else if (at >= stub_swap_begin && at < stub_swap_end)
            fixup = stub_swap_fault;
        if (fixup) {
            uc->uc_mcontext.rip = (uint64_t)fixup;
            return;
        }
    }
#ifdef KVM
    if (loop_signal(signo, uc))
        return;
#endif
    bool is_stop = signo == SIGTRAP && ip == (uint64_t)stub_stopped;
    if (is_stop || (signo == INTERRUPT_SIGNAL && ip - STUB_BASE < STUB_SIZE)) {
        if (!leave_call(slot, uc)) {
            slot->interrupted = 1; /* it will be over soon, or the sentry has its request already */
            return;
        }
        signo = INTERRUPT_SIGNAL;
    }
    slot->interrupted = 0;
    slot->fs_base = __builtin_ia32_rdfsbase64();
    slot->gs_base = __builtin_ia32_rdgsbase64();
    slot->signo = signo;
    slot->code = info->si_code;
    slot->addr = (uint64_t)info->si_addr;
    if (signo == SIGSYS && info->si_code == 1) { /* SYS_SECCOMP */
        const struct sigcontext *r = &uc->uc_mcontext;
        int64_t args[7] = {r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9, r->rsp}; /* PF_SP */
        int64_t nr = info->si_arch == AUDIT_ARCH_X86_64 ? info->si_syscall : -1;
        slot->sysno = nr;
        for (int i = 0; i < 6; i++)
            slot->args[i] = args[i];
        prefetch(slot, nr, args);
        post(slot, K_SYSCALL);
    } else {
        slot->prefetch_count = 0;
        slot->sysno = (uint64_t)uc - (uint64_t)slot - 8; /* where frames begin: read from the zygote only */
        post(slot, signo == INTERRUPT_SIGNAL ? K_INTERRUPTED : K_FAULT);
    }
    serve(slot, uc, (int64_t *)&uc->uc_mcontext.rax);
}
