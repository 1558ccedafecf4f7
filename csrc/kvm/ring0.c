/* Ring 0: what happens to guest code becomes a record in the thread's slot and a question to the loop. */
#include "kvm.h"

#define FLAGS_USER 0x50dd5ULL /* AC RF OF DF TF SF ZF AF PF CF: what the host restores from a signal frame, too */
#define XSTATE_BV 512
#define FLAGS_ALWAYS 0x202ULL /* IF */

void ring0_trap(struct trap *trap);
void ring0_load(struct trap *trap);

static inline struct cpu *own_cpu(const void *stack)
{
    return (struct cpu *)((uint64_t)stack & ~(PAGE - 1));
}

/* Halt: the loop does what is asked for.  It may have changed the page tables. */
static uint32_t ask(struct cpu *cpu, uint32_t what)
{
    uint64_t cr3;
    cpu->ask = what;
    __asm__ volatile("hlt\n\tmov %%cr3, %0\n\tmov %0, %%cr3" : "=r"(cr3)::"memory");
    return cpu->told;
}

/* Into the signal frame, in which the sentry looks for it. */
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

/* Out of the frame, as the thread is to go on. */
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

/* A fault in ring 0 itself: only the return to an address that no program can have is expected.  The registers of that
 * program are still in its frame. */
static void own_fault(struct cpu *cpu, struct trap *trap)
{
    cpu->vector = trap->vector;
    if (trap->rip != (uint64_t)ring0_iret) {
        __asm__ volatile("mov %%cr2, %0" : "=r"(cpu->address));
        ask(cpu, ASK_END);
        return;
    }
    cpu->error = 0;
    ask(cpu, ASK_FAULT);
    __asm__ volatile("mov %0, %%rsp\n\tmovabs $ring0_start, %%rax\n\tjmp *%%rax" ::"r"(cpu->stack) : "memory");
    __builtin_unreachable();
}

void ring0_trap(struct trap *trap)
{
    struct cpu *cpu = own_cpu(trap);
    if (!(trap->cs & 3))
        return own_fault(cpu, trap);
    save(cpu, trap);
    if (trap->vector == VECTOR_CALL) {
        ask(cpu, ASK_CALL);
    } else if (trap->vector == VECTOR_INTERRUPT) {
        ask(cpu, ASK_INTERRUPT);
    } else {
        cpu->vector = trap->vector;
        cpu->error = trap->error;
        __asm__ volatile("mov %%cr2, %0" : "=r"(cpu->address));
        if (ask(cpu, ASK_FAULT) == RETRY)
            return;
    }
    ring0_load(trap);
}
