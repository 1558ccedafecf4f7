/* The stub: the only code of ours that runs inside a guest process.
 *
 * Freestanding, no writable data, no floating point.  Everything it remembers is in the slot, which it finds by
 * masking the stack pointer.  Nothing in the sandbox's security rests on it (docs/design.md, I6): a guest may jump to
 * any of its instructions, so the seccomp filter admits from here only what is harmless or was ordered.
 */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"
#include "shared.h"

_Static_assert(L_REGION_BASE == REGION_BASE && L_REGION_SIZE == REGION_SIZE && 1UL << L_REGION_SHIFT == REGION_SIZE &&
                   REGION_BASE % REGION_SIZE == 0 && L_CALL_STACK_TOP == CALL_STACK_TOP,
               "layout.h disagrees with shared.h");
_Static_assert(L_INFO_ACTIONS == INFO_BASE + offsetof(struct info, actions), "layout.h: struct info");
_Static_assert(L_SYSNO == offsetof(struct slot, sysno) && L_ARGS == offsetof(struct slot, args) &&
                   L_CALL_REGS == offsetof(struct slot, call_regs) && L_INTERRUPTED == offsetof(struct slot, interrupted) &&
                   L_CAN_ANSWER == offsetof(struct slot, can_answer) && L_ANSWERS == offsetof(struct slot, answers),
               "layout.h: struct slot");

#define SYS_read 0
#define SYS_write 1
#define SYS_openat 257
#define SYS_close 3
#define SYS_mmap 9
#define SYS_munmap 11
#define SYS_rt_sigaction 13
#define SYS_rt_sigprocmask 14
#define SYS_mremap 25
#define SYS_sched_yield 24
#define SYS_sendmsg 46
#define SYS_recvfrom 45
#define SYS_clone 56
#define SYS_exit 60
#define SYS_sigaltstack 131
#define SYS_prctl 157
#define SYS_capset 126
#define SYS_futex 202
#define SYS_exit_group 231
#define SYS_seccomp 317
#define SYS_membarrier 324
#define SYS_close_range 436

#define SOCK_FD 3
#define REGION_FD 4
#define INFO_FD 5
#define PROC_FD 6

#define FUTEX_WAIT 0
#define FUTEX_WAKE 1

struct sigframe_regs { /* struct sigcontext: the order of platform/interface.py */
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
};

struct ucontext {
    uint64_t flags, link;
    uint64_t stack[3];
    struct sigframe_regs regs;
};

struct siginfo {
    int32_t signo, error, code, pad;
    uint64_t addr; /* SIGSYS: si_call_addr */
    int32_t sysno;
    uint32_t arch;
};

extern char stub_call[], stub_call_trap_jump[], stub_call_saved[], stub_call_flags[], stub_call_enter[];
extern char stub_leave[], stub_leave_end[], stub_again[], stub_again_end[], stub_stopped[];
extern char stub_handler[], stub_restorer[], stub_park[];
extern char stub_copy_begin[], stub_copy_end[], stub_string_begin[], stub_string_end[], stub_copy_fault[], stub_string_fault[];
extern char stub_swap_begin[], stub_swap_end[], stub_swap_fault[];
extern long stub_swap(volatile void *word, volatile uint32_t *old, uint32_t new);
extern long stub_copy(void *to, const void *from, uint64_t length);
extern long stub_copy_string(void *to, const void *from, uint64_t length);
extern long stub_clone(const struct op *op, void *uc);
extern long stub_thread(unsigned long flags, void *stack);
extern void stub_switch(void *stack, void (*next)(void *), void *arg);

static inline long call6(long nr, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#define call1(nr, a) call6(nr, (long)(a), 0, 0, 0, 0, 0)
#define call2(nr, a, b) call6(nr, (long)(a), (long)(b), 0, 0, 0, 0)
#define call3(nr, a, b, c) call6(nr, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define call4(nr, a, b, c, d) call6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

#define INFO ((const volatile struct info *)INFO_BASE)

static inline uint64_t ticks(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static inline void pause_cpu(void)
{
    __asm__ volatile("pause");
}

static inline struct slot *slot_of(const void *stack)
{
    return (struct slot *)((uint64_t)stack & ~(SLOT_SIZE - 1));
}

/* ENOSYS: nobody holds the listener any more.  The filter turns exit_group into a kill. */
static inline void ring(void)
{
    if (call2(SYS_sched_yield, BELL_ARG0, BELL_ARG1) == -38)
        call1(SYS_exit_group, 1);
}

/* Wait until the sentry has answered. */
static void wait_reply(volatile struct slot *slot)
{
    uint64_t start = ticks();
    for (;;) {
        uint32_t expected = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);
        if (expected == ST_REPLY)
            return;
        if (expected != ST_WAIT && ticks() - start < INFO->spin_ticks) {
            pause_cpu();
            continue;
        }
        const volatile uint32_t *bell = &INFO->bells[slot->bell % BELLS];
        if (!__atomic_compare_exchange_n(&slot->state, &expected, ST_SLEEPING, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            continue;
        for (;;) {
            uint32_t value = __atomic_load_n(bell, __ATOMIC_ACQUIRE);
            if (__atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) != ST_SLEEPING)
                break;
            /* Where no pid namespace takes us along with the sentry, look now and then whether it is still there. */
            int64_t timeout[2] = {60, 0};
            if (call4(SYS_futex, bell, FUTEX_WAIT, value, timeout) == -110)
                ring();
        }
        slot->state = ST_GUEST; /* tells the sentry that the wake-up has come */
        return;
    }
}

static void post(volatile struct slot *slot, uint32_t kind)
{
    uint32_t cpu;
    __asm__ volatile("rdtscp" : "=c"(cpu)::"rax", "rdx");
    slot->kind = kind | (cpu & 0xfff) << 16;
    /* A full barrier: either this load sees that the sentry sleeps, or its last scan sees the request. */
    __atomic_exchange_n(&slot->state, ST_REQUEST, __ATOMIC_SEQ_CST);
    if (INFO->asleep)
        ring();
}

#define SWAP_TRIES (1 << 20) /* of one instruction each, against whoever changes the word all the time */

/* What a word becomes. */
static uint32_t swapped(uint32_t op, uint32_t old, uint32_t operand)
{
    if (op == SWAP_ADD)
        return old + operand;
    if (op == SWAP_OR)
        return old | operand;
    if (op == SWAP_ANDN)
        return old & ~operand;
    if (op == SWAP_XOR)
        return old ^ operand;
    return operand;
}

/* Change the word: once, if it holds swap_old; by an operation until that has happened.  Whether it failed. */
static uint32_t swap(volatile struct slot *slot)
{
    uint32_t op = slot->swap_op;
    for (uint32_t i = 0; i < SWAP_TRIES; i++) {
        uint32_t old = slot->swap_old;
        if (stub_swap((void *)slot->swap_addr, &slot->swap_old, swapped(op, old, slot->swap_new)))
            return 1;
        if (!op || slot->swap_old == old)
            return 0;
    }
    return 1;
}

/* Carry out replies until one lets the guest go on: that one.  *result: the call's, where the reply has one. */
static uint32_t serve(volatile struct slot *slot, struct ucontext *uc, int64_t *result)
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
            call3(SYS_futex, &INFO->bells[bell % BELLS], FUTEX_WAKE, INT32_MAX);
        }
    uint32_t count = reply >> 16 & 0xff;
    for (uint32_t i = 0; i < count && i < MAX_OPS; i++) {
        struct op *op = (struct op *)&slot->ops[i];
        long done;
        if (op->nr == SYS_clone)
            done = stub_clone(op, uc);
        else
            do /* in a patched call an interrupt may come before the sentry has received the notification: EINTR */
                done = call6(op->nr, op->args[0], op->args[1], op->args[2], op->args[3], op->args[4], op->args[5]);
            while (done == -4);
        if (done < 0 && done >= -4095 && op->nr != SYS_close) {
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
        if (stub_copy((void *)copy->addr, from, copy->length)) {
            has_faulted = true;
            is_cut = is_cut || offset & FROM_WINDOW;
        }
    }
    if (reply & RF_SET_BASE) {
        __asm__ volatile("wrfsbase %0" ::"r"(slot->fs_base));
        __asm__ volatile("wrgsbase %0" ::"r"(slot->gs_base));
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

/* Where a clone starts: on the frame that the sentry prepared in the child's own slot. */
void stub_resume(struct ucontext *uc)
{
    serve(slot_of(uc), uc, (int64_t *)&uc->regs.rax);
}

/* Copy what the table says the sentry will want to see. */
static void prefetch(volatile struct slot *slot, uint64_t nr, const int64_t *args)
{
    uint32_t used = 0, count = 0;
    if (nr < 512) {
        for (int i = 0; i < MAX_PREFETCH; i++) {
            const volatile struct prefetch *entry = &INFO->prefetch[nr][i];
            if (entry->kind == PF_NONE)
                break;
            uint64_t addr = args[entry->arg];
            uint64_t length = entry->value;
            char *to = (char *)slot + DATA_OFFSET + used;
            long result;
            if (!addr)
                continue;
            if (entry->kind == PF_CSTRING) {
                result = stub_copy_string(to, (void *)addr, length);
                length = result;
            } else {
                if (entry->kind == PF_ARG) {
                    uint64_t n = args[entry->count_arg];
                    if (n > entry->cap)
                        continue;
                    length = n * entry->value;
                    if (length > entry->cap)
                        continue;
                }
                result = -(int64_t)stub_copy(to, (void *)addr, length);
            }
            if (result < 0)
                continue;
            slot->prefetch[count].addr = addr;
            slot->prefetch[count].length = length;
            slot->prefetch[count].offset = used;
            count++;
            used += (length + 7) & ~7UL;
        }
    }
    slot->prefetch_count = count;
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
    uc->regs.rdi = slot->args[0];
    uc->regs.rsi = slot->args[1];
    uc->regs.rdx = slot->args[2];
    uc->regs.r10 = slot->args[3];
    uc->regs.r8 = slot->args[4];
    uc->regs.r9 = slot->args[5];
}

/* A signal came in the code of a patched call: make the registers those before or behind the call.
 * False: in the middle of it, where the caller must wait until it is over. */
static bool leave_call(volatile struct slot *slot, struct ucontext *uc)
{
    char *ip = (char *)uc->regs.rip;
    if (ip >= stub_call && ip < stub_call_saved) {
        uc->regs.rip = ip == stub_call_trap_jump ? uc->regs.r11 : uc->regs.r11 - 2;
        return true;
    }
    if (ip >= stub_call_saved && ip < stub_call_enter) {
        if (ip >= stub_call_flags)
            uc->regs.eflags = saved_flags(slot, uc->regs.eflags);
        uc->regs.rax = slot->call_regs[CR_RAX];
    } else if ((ip >= stub_leave && ip < stub_leave_end) || (ip >= stub_again && ip < stub_again_end)) {
        set_arguments(slot, uc);
        uc->regs.eflags = saved_flags(slot, uc->regs.eflags);
        uc->regs.rax = slot->call_regs[CR_RAX];
    } else {
        return false;
    }
    uc->regs.rsp = slot->call_regs[CR_RSP];
    uc->regs.rip = slot->call_regs[CR_RIP];
    if (ip < stub_leave || ip >= stub_again)
        uc->regs.rip -= 2;
    return true;
}

void stub_signal(int signo, struct siginfo *info, struct ucontext *uc)
{
    volatile struct slot *slot = slot_of(uc);
    uint64_t ip = uc->regs.rip;
    if (signo == 11 || signo == 7) {
        if (ip >= (uint64_t)stub_copy_begin && ip < (uint64_t)stub_copy_end) {
            uc->regs.rip = (uint64_t)stub_copy_fault;
            return;
        }
        if (ip >= (uint64_t)stub_string_begin && ip < (uint64_t)stub_string_end) {
            uc->regs.rip = (uint64_t)stub_string_fault;
            return;
        }
        if (ip >= (uint64_t)stub_swap_begin && ip < (uint64_t)stub_swap_end) {
            uc->regs.rip = (uint64_t)stub_swap_fault;
            return;
        }
    }
    bool is_stop = signo == 5 && ip == (uint64_t)stub_stopped;
    if (is_stop || (signo == INTERRUPT_SIGNAL && ip - STUB_BASE < STUB_SIZE)) {
        if (!leave_call(slot, uc)) {
            slot->interrupted = 1; /* it will be over soon, or the sentry has its request already */
            return;
        }
        signo = INTERRUPT_SIGNAL;
    }
    slot->interrupted = 0;
    uint64_t base;
    __asm__ volatile("rdfsbase %0" : "=r"(base));
    slot->fs_base = base;
    __asm__ volatile("rdgsbase %0" : "=r"(base));
    slot->gs_base = base;
    slot->signo = signo;
    slot->code = info->code;
    slot->addr = info->addr;
    if (signo == 31 && info->code == 1) { /* SYS_SECCOMP */
        int64_t args[6] = {uc->regs.rdi, uc->regs.rsi, uc->regs.rdx, uc->regs.r10, uc->regs.r8, uc->regs.r9};
        int64_t nr = info->arch == AUDIT_ARCH_X86_64 ? info->sysno : -1;
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
    serve(slot, uc, (int64_t *)&uc->regs.rax);
}

/* ---- the start of the zygote: nothing below runs in a guest ---- */

struct sigaction_k {
    void *handler;
    uint64_t flags;
    void *restorer;
    uint64_t mask;
};

struct start { /* at the bottom of slot 1's data buffer */
    struct boot boot;
    volatile int32_t listener; /* the descriptor + 1; 0: not yet; below 0: -errno */
    volatile uint32_t sent;
};

#define START ((struct start *)(REGION_BASE + SLOT_SIZE + DATA_OFFSET))

static void __attribute__((noreturn)) die(long where, long error)
{
    int64_t message[2] = {-where, error};
    call3(SYS_write, SOCK_FD, message, sizeof message);
    call1(SYS_exit_group, 1);
    __builtin_unreachable();
}

/* A thread without the filter: sends the listener, which the filtered thread could not. */
void stub_helper(void)
{
    struct start *start = START;
    while (!start->listener)
        call4(SYS_futex, &start->listener, FUTEX_WAIT, 0, 0);
    long listener = start->listener > 0 ? start->listener - 1 : start->listener;
    int64_t message[2] = {listener >= 0 ? 1 : -9, listener};
    struct {
        uint64_t base, length;
    } iov = {(uint64_t)message, sizeof message};
    struct {
        uint64_t length;
        int32_t level, type;
        int32_t fd, pad;
    } control = {20, 1, 1, listener, 0};
    struct {
        uint64_t name;
        uint32_t name_length, pad;
        uint64_t iov, iov_count, control, control_length;
        uint32_t flags;
    } header = {0, 0, 0, (uint64_t)&iov, 1, (uint64_t)&control, sizeof control, 0};
    if (listener < 0)
        header.control_length = 0;
    call3(SYS_sendmsg, SOCK_FD, &header, 0);
    start->sent = 1;
    call4(SYS_futex, &start->sent, FUTEX_WAKE, 1, 0);
    if (listener < 0)
        call1(SYS_exit_group, 1);
    call1(SYS_exit, 0);
}

static void on_slot_stack(void *unused)
{
    (void)unused;
    struct start *start = START;
    long error;
    /* Whatever the program loader left: the old stack, the vdso's first place. */
    for (uint64_t i = 0; i < start->boot.move_count && i < MAX_MOVES; i++) {
        uint64_t *move = start->boot.moves[i];
        error = call6(SYS_mremap, move[0], move[1], move[1], 3, move[2], 0);
        if (error < 0)
            die(5, error);
    }
    call2(SYS_munmap, MIN_ADDRESS, STUB_BASE - MIN_ADDRESS);
    call2(SYS_munmap, STUB_BASE + STUB_SIZE, INFO_BASE - STUB_BASE - STUB_SIZE);
    call2(SYS_munmap, INFO_BASE + INFO_SIZE, VDSO_BASE - INFO_BASE - INFO_SIZE);
    call2(SYS_munmap, VDSO_BASE + VDSO_SIZE, REGION_BASE - VDSO_BASE - VDSO_SIZE);
    call2(SYS_munmap, REGION_BASE + REGION_SIZE, 0x7ffffffff000ULL - REGION_BASE - REGION_SIZE);

    struct sigaction_k action = {stub_handler, 0x4c000004ULL, stub_restorer, ~((1ULL << 10) | (1ULL << 6))};
    static const uint8_t signals[] = {31, 11, 7, 8, 4, 5, INTERRUPT_SIGNAL};
    for (unsigned i = 0; i < sizeof signals; i++) {
        error = call4(SYS_rt_sigaction, signals[i], &action, 0, 8);
        if (error < 0)
            die(6, error);
    }
    uint64_t stack[3] = {REGION_BASE + STACK_OFFSET, 0, STACK_SIZE};
    error = call2(SYS_sigaltstack, stack, 0);
    if (error < 0)
        die(7, error);
    uint64_t mask = 0;
    call4(SYS_rt_sigprocmask, 2, &mask, 0, 8);

    uint32_t caps[2] = {0x20080522, 0};
    uint32_t none[6] = {0, 0, 0, 0, 0, 0};
    call2(SYS_capset, caps, none);
    call3(SYS_prctl, 47, 4, 0); /* PR_CAP_AMBIENT_CLEAR_ALL */
    error = call6(SYS_prctl, 38, 1, 0, 0, 0, 0); /* PR_SET_NO_NEW_PRIVS */
    if (error < 0)
        die(8, error);

    call3(SYS_membarrier, 4, 0, 0); /* REGISTER_GLOBAL_EXPEDITED, inherited by forks: guests' barriers are the sentry's */

    error = stub_thread(0x50f00, (void *)(REGION_BASE + 2 * SLOT_SIZE - 256));
    if (error < 0)
        die(4, error);
    struct {
        uint16_t count;
        uint64_t program;
    } filter = {start->boot.filter_count, (uint64_t)start->boot.filter};
    long listener = call3(SYS_seccomp, SECCOMP_SET_MODE_FILTER, start->boot.filter_flags, &filter);
    start->listener = listener < 0 ? listener : listener + 1;
    call4(SYS_futex, &start->listener, FUTEX_WAKE, 1, 0);
    while (!start->sent)
        call4(SYS_futex, &start->sent, FUTEX_WAIT, 0, 0);
    call1(SYS_close, SOCK_FD);
    call1(SYS_close, listener);
    for (unsigned i = 0; i < sizeof *start; i++)
        ((volatile char *)start)[i] = 0;
    ((void (*)(void))stub_park)();
}

void stub_main(const uint64_t *stack)
{
    /* Where the host refuses ADDR_NO_RANDOMIZE the stack may lie where the region goes: be started again. */
    if ((uint64_t)stack >= STUB_BASE && (uint64_t)stack < REGION_BASE + REGION_SIZE + 0x1000000)
        die(10, 0);
    long error = call6(SYS_mmap, REGION_BASE, REGION_SIZE, 3, 0x11, REGION_FD, 0);
    if (error != (long)REGION_BASE)
        die(1, error);
    error = call6(SYS_mmap, INFO_BASE, INFO_SIZE, 1, 0x11, INFO_FD, 0);
    if (error != (long)INFO_BASE)
        die(2, error);
    /* The sentry decides what moves where: it knows the layout of the vDSO's areas from its own. */
    const uint64_t *at = stack + 1 + stack[0] + 1;
    while (*at)
        at++;
    int64_t hello[2] = {0, 0};
    for (at++; at[0]; at += 2)
        if (at[0] == 33) /* AT_SYSINFO_EHDR */
            hello[0] = at[1];
    call3(SYS_write, SOCK_FD, hello, sizeof hello);
    error = call3(SYS_read, SOCK_FD, &START->boot, sizeof START->boot);
    if (error != sizeof START->boot)
        die(3, error);
    call3(SYS_close_range, 0, SOCK_FD - 1, 0);
    error = call3(SYS_close_range, SOCK_FD + 1, ~0U, 0);
    if (error < 0)
        die(3, error);
    /* Not slot 0's signal stack: a signal that comes on it would not put its frame at the top. */
    stub_switch((void *)(REGION_BASE + 3 * SLOT_SIZE), on_slot_stack, 0);
}
