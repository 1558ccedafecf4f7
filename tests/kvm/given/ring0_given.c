/* For tests only, never installed: a ring 0 that obeys a program.
 *
 * Linked in front of the honest one (--wrap=ring0_trap).  The system call GIVE calls the function in %rdi, in ring 0, with
 * SMEP and SMAP off: (the program's registers, the virtual CPU's own record, set_entry).
 */
#include "kvm.h"

#define GIVE 0x7100
#define PROTECTIONS (3ULL << 20) /* SMEP, SMAP in CR4 */

void __real_ring0_trap(struct trap *trap);
void __wrap_ring0_trap(struct trap *trap);

/* Write a word with other page tables in force, in which this text must be mapped where it is. */
static void set_entry(uint64_t tables, volatile uint64_t *where, uint64_t value)
{
    uint64_t old;
    __asm__ volatile("mov %%cr3, %0\n\tmov %1, %%cr3\n\tmov %3, (%2)\n\tmov %0, %%cr3"
                     : "=&r"(old)
                     : "r"(tables), "r"(where), "r"(value)
                     : "memory");
}

void __wrap_ring0_trap(struct trap *trap)
{
    uint64_t cr4;
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) vectors;
    if (!(trap->cs & 3) || trap->vector != VECTOR_CALL || (uint32_t)trap->regs[AT_RAX] != GIVE) {
        __real_ring0_trap(trap);
        return;
    }
    __asm__ volatile("sidt %0" : "=m"(vectors));
    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    __asm__ volatile("mov %0, %%cr4" ::"r"(cr4 & ~PROTECTIONS));
    void (*code)(struct trap *, struct cpu *, void *) = (void (*)(struct trap *, struct cpu *, void *))trap->regs[8];
    code(trap, (struct cpu *)((uint64_t)trap & ~(PAGE - 1)), (void *)set_entry);
    __asm__ volatile("lidt %0" ::"m"(vectors)); /* then it is an ordinary program again, if it likes */
    __asm__ volatile("mov %0, %%cr4" ::"r"(cr4));
    trap->regs[AT_RAX] = 0;
}
