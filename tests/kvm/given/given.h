/* Attacks by a program that has been given ring 0 of its machine (ring0_given.c). cloche's own memory there:
 * csrc/kvm/kvm.h. */
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "addresses.h" /* of platform/layout.py: the test writes it */

#define GIVE 0x7100
#define PAGE 4096ULL
#define GPA_RING0 0x1000000ULL
#define GPA_TEXT 0x2000000ULL
#define GPA_INFO 0x2100000ULL
#define GPA_VDSO 0x2200000ULL
#define GPA_REGION 0x8000000ULL
#define GPA_TABLES 0x10000000ULL
#define WINDOW 0x600000000000ULL /* where the attacker sees all guest-physical memory below 4 GiB */
#define ASK_BELL 1
#define ASK_SERVE 2
#define ASK_FAULT 3
#define ASK_PAGE 5
#define REPLY 3

struct cpu { /* the beginning of ours */
    uint64_t scratch, stack;
    volatile char *slot;
    uint64_t *regs;
    char *fp;
    uint64_t xcr0;
    volatile uint32_t ask, told;
    volatile uint64_t vector, error, address;
};

typedef void attack(void *trap, struct cpu *cpu, void (*set_entry)(uint64_t, volatile uint64_t *, uint64_t));

static inline uint64_t next_random(void)
{
    static uint64_t state = 88172645463325252ULL;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static inline void set(volatile char *slot, int offset, uint32_t value)
{
    *(volatile uint32_t *)(slot + offset) = value;
}

static inline void set_long(volatile char *slot, int offset, uint64_t value)
{
    *(volatile uint64_t *)(slot + offset) = value;
}

/* Halt: the loop is asked. */
static inline uint32_t ask(struct cpu *cpu, uint32_t what)
{
    cpu->ask = what;
    __asm__ volatile("hlt" ::: "memory");
    return cpu->told;
}

/* Have the loop find this reply in the slot, with its orders. */
static inline void reply(struct cpu *cpu, uint32_t flags)
{
    set(cpu->slot, 4, flags);
    set(cpu->slot, 0, REPLY);
    ask(cpu, ASK_SERVE);
}

static inline void order(struct cpu *cpu, long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    uint64_t words[8] = {nr, a, b, c, d, e, f, 7};
    for (int i = 0; i < 8; i++)
        set_long(cpu->slot, 0x600 + 8 * i, words[i]);
    reply(cpu, 1 << 16);
}
