/* Ring 0: a guest's system call or exception becomes a record in the thread's slot. Simple replies are carried out
 * here, all others and exceptions by the loop. */
#include "kvm.h"

#define FLAGS_USER 0x50dd5ULL /* AC RF OF DF TF SF ZF AF PF CF: the flags that the host restores from a signal frame,
                                 too */
#define DR6_INITIAL 0xffff0ff0ULL
#define XSTATE_BV 512
#define FLAGS_ALWAYS 0x202ULL /* IF */

void ring0_trap(struct trap *trap);
void ring0_load(struct trap *trap);

static inline struct cpu *own_cpu(const void *stack)
{
    return (struct cpu *)((uint64_t)stack & ~(PAGE - 1));
}

/* Halt: the loop carries out the request. It may have changed the page tables. */
static uint32_t ask(struct cpu *cpu, uint32_t what)
{
    uint64_t cr3;
    cpu->ask = what;
    __asm__ volatile("hlt\n\tmov %%cr3, %0\n\tmov %0, %%cr3" : "=r"(cr3)::"memory");
    return cpu->told;
}

/* Save the registers into the signal frame, where the sentry reads them. */
static void save(struct cpu *cpu, const struct trap *trap)
{
    uint64_t *regs = cpu->regs;
    for (int i = 0; i < 15; i++)
        regs[i] = trap->regs[i];
    regs[AT_RSP] = trap->rsp;
    regs[AT_RIP] = trap->rip;
    regs[AT_FLAGS] = trap->flags;
    cpu->slot->fs_base = __builtin_ia32_rdfsbase64();
    cpu->slot->gs_base = __builtin_ia32_rdgsbase64();
    __asm__ volatile("xsave64 (%0)" ::"r"(cpu->fp), "a"(-1), "d"(-1) : "memory");
}

/* Load the registers from the frame, with which the thread goes on. */
void ring0_load(struct trap *trap)
{
    struct cpu *cpu = own_cpu(trap);
    const uint64_t *regs = cpu->regs;
    for (int i = 0; i < 15; i++)
        trap->regs[i] = regs[i];
    trap->rsp = regs[AT_RSP];
    trap->rip = regs[AT_RIP];
    trap->flags = (regs[AT_FLAGS] & FLAGS_USER) | FLAGS_ALWAYS;
    trap->cs = USER_CS;
    trap->ss = USER_SS;
    __builtin_ia32_wrfsbase64(cpu->slot->fs_base);
    __builtin_ia32_wrgsbase64(cpu->slot->gs_base);
    *(uint64_t *)(cpu->fp + XSTATE_BV) &= cpu->xcr0; /* the host may have kinds of state that its KVM does not give */
    __asm__ volatile("xrstor64 (%0)" ::"r"(cpu->fp), "a"(-1), "d"(-1) : "memory");
}

/* ---- system calls ---- */

/* Spin for the answer, as the stub does (wait_reply); false: it is late. */
static bool spin(volatile struct slot *slot)
{
    uint64_t start = __builtin_ia32_rdtsc();
    for (;;) {
        uint32_t state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE);
        if (state == ST_REPLY)
            return true;
        if (state == ST_WAIT || __builtin_ia32_rdtsc() - start >= INFO->spin_ticks)
            return false;
        __builtin_ia32_pause();
    }
}

/* Carry the reply out; false: the loop has to.  Nothing has happened then, or the same can happen once more. */
static bool serve_here(struct cpu *cpu, volatile struct slot *slot)
{
    uint32_t reply = slot->reply, count = reply >> 24;
    bool has_faulted = false;
    if (reply & 0xffffff & ~(RF_RESULT | RF_SET_BASE)) /* operations, wake-ups, words to change, further rounds */
        return false;
    for (uint32_t i = 0; i < count && i < MAX_COPIES; i++)
        if (slot->copies[i].offset & FROM_WINDOW)
            return false;
    for (uint32_t i = 0; i < count && i < MAX_COPIES; i++) {
        volatile struct copy *copy = &slot->copies[i];
        if (ring0_copy((void *)copy->addr, (char *)slot + DATA_OFFSET + copy->offset, copy->length))
            has_faulted = true;
    }
    if (has_faulted)
        cpu->regs[AT_RAX] = -14;
    else if (reply & RF_RESULT)
        cpu->regs[AT_RAX] = slot->result;
    return true;
}

static void call(struct cpu *cpu, const struct trap *trap)
{
    volatile struct slot *slot = cpu->slot;
    const uint64_t *r = trap->regs;
    const int64_t args[6] = {r[8], r[9], r[12], r[2], r[0], r[1]}; /* rdi rsi rdx r10 r8 r9 */
    int64_t nr = (int32_t)r[AT_RAX];
    slot->sysno = nr;
    for (int i = 0; i < 6; i++)
        slot->args[i] = args[i];
    ring0_prefetch(slot, nr, args);
    slot->kind = K_SYSCALL | 0xfffU << 16; /* on no processor that is known here */
    __atomic_exchange_n(&slot->state, ST_REQUEST, __ATOMIC_SEQ_CST);
    if (INFO->asleep)
        ask(cpu, ASK_BELL);
    else if (!spin(slot) || !serve_here(cpu, slot))
        ask(cpu, ASK_SERVE);
}

/* ---- faults ---- */

/* A fault in ring 0 itself: its copies may meet unmapped pages. And the return may be to an address that no program
 * can have: the registers of that program are still in its frame. */
static void own_fault(struct cpu *cpu, struct trap *trap)
{
    const char *at = (const char *)trap->rip, *fix = 0;
    if (at >= ring0_copy_begin && at < ring0_copy_end)
        fix = ring0_copy_fault;
    else if (at >= ring0_string_begin && at < ring0_string_end)
        fix = ring0_string_fault;
    cpu->vector = trap->vector;
    cpu->error = fix ? trap->error : 0;
    __asm__ volatile("mov %%cr2, %0" : "=r"(cpu->address));
    if (fix) {
        if (trap->vector != VECTOR_PAGE_FAULT || ask(cpu, ASK_PAGE) != RETRY)
            trap->rip = (uint64_t)fix;
        return;
    }
    if (at != ring0_iret)
        ask(cpu, ASK_END);
    ask(cpu, ASK_FAULT);
    __asm__ volatile("mov %0, %%rsp\n\tmovabs $ring0_start, %%rax\n\tjmp *%%rax" ::"r"(cpu->stack) : "memory");
    __builtin_unreachable();
}

void ring0_trap(struct trap *trap)
{
    struct cpu *cpu = own_cpu(trap);
    if (!(trap->cs & 3))
        return own_fault(cpu, trap);
    if (trap->vector == VECTOR_PROTECTION && ring0_store(trap))
        return;
    save(cpu, trap);
    if (trap->vector == VECTOR_CALL) {
        call(cpu, trap);
    } else if (trap->vector == VECTOR_INTERRUPT) {
        ask(cpu, ASK_INTERRUPT);
    } else {
        cpu->vector = trap->vector;
        cpu->error = trap->error;
        if (trap->vector == VECTOR_DEBUG)
            __asm__ volatile("mov %%db6, %0\n\tmov %1, %%db6" : "=&r"(cpu->address) : "r"(DR6_INITIAL));
        else
            __asm__ volatile("mov %%cr2, %0" : "=r"(cpu->address));
        if (ask(cpu, ASK_FAULT) == RETRY)
            return;
    }
    ring0_load(trap);
}
