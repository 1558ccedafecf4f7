/* The KVM platform's part in a guest's host process: the declarations that its files share.
 *
 * The stub runs here as it does on systrap, but guest code does not: for that there is a virtual machine in the same
 * process. Its ring 0 (ring0.S, ring0.c) turns a guest's system call or exception into a record in the thread's slot
 * and halts; the loop (all other files) then posts it and carries out replies with the stub's own code, and lets it
 * go on.
 *
 * Trust: ring 0 is trusted no more than the stub: an attacker who controls it controls its slots, its page tables'
 * contents as far as hardware writes them, and `struct cpu`. The loop reads a field of those once, and no value of
 * them makes the loop write anywhere but to the guest's own memory (loop_copy, loop_swap, table_at), or make a call
 * of the host that the stub could not make on systrap (carry_out). The loop itself is bounded by the seccomp filter
 * (platform/filter.py).
 */
#ifndef CLOCHE_KVM_H
#define CLOCHE_KVM_H

#include <linux/kvm.h>
#include <linux/mman.h>
#include <linux/sched.h>

#include "stub.h"


#define PAGE 4096ULL
#define BLOCK (1ULL << 30) /* of guest addresses: has one memory slot, given at its first touch */
#define BLOCKS (MAX_ADDRESS >> 30)
#define MAX_USED 4096 /* blocks of one process */
#define MAX_AREAS 131072
#define MAX_CPUID 256
#define NO_BLOCK 0xffffffffU
#define TABLES (TABLES_SIZE / PAGE)
#define WHOLE_BLOCK 0xffff
#define MAX_VAIN 16 /* virtual CPUs for threads that the host or the sentry then refused */
#define PROT_ALL 7
#define NO_MEMORY (-12) /* ENOMEM */
#define END_CALL 0x100000 /* and more: calls that do not exist, by which a process ends itself (end_process) */
#define END_REASONS 0xfffffff
#define AREA_FILE 8     /* in an area's bits, beside PROT_* */
#define AREA_NO_FORK 16 /* MADV_DONTFORK */

/* Guest-physical addresses. */
#define GPA_RING0 0x1000000ULL
#define GPA_TEXT 0x2000000ULL
#define GPA_INFO 0x2100000ULL
#define GPA_VDSO 0x2200000ULL
#define GPA_REGION 0x8000000ULL
#define GPA_TABLES 0x10000000ULL
#define GPA_BLOCKS 0x100000000ULL

enum { SLOT_TABLES, SLOT_RING0, SLOT_TEXT, SLOT_INFO, SLOT_VDSO, SLOT_REGION, SLOT_BLOCKS }; /* memory slots */

/* Selectors, as Linux has them. */
#define KERNEL_CS 0x10
#define KERNEL_SS 0x18
#define USER_SS 0x2b
#define USER_CS 0x33
#define TSS_SELECTOR 0x40
#define CPU_SELECTOR 0x78 /* its limit holds the number of the processor */
#define GDT_ENTRIES 16

/* Requests of ring 0 to the loop when it halts. */
enum {
    ASK_NOTHING,
    ASK_BELL,      /* a call is posted, the sentry sleeps: ring, then as ASK_SERVE */
    ASK_SERVE,     /* a call is posted: its reply is late, or contains a step that ring 0 cannot take */
    ASK_FAULT,     /* an exception of the program's */
    ASK_INTERRUPT, /* it was interrupted */
    ASK_PAGE,      /* a copy of ring 0's own met a page fault */
    ASK_END,
};
/* ... and the loop's answers. */
enum { GO_ON, RETRY, FIX_UP };

#define VECTOR_DEBUG 1
#define VECTOR_PROTECTION 13
#define VECTOR_PAGE_FAULT 14
#define NOT_STORED (1U << 16 | 6) /* error of a program's write that ring 0 made for it: a bit that no processor sets */
#define VECTOR_INTERRUPT 32
#define VECTOR_BUS 33 /* not a vector of hardware: an access that the host cannot make, at an unknown address */
#define VECTOR_CALL 256

struct tss {
    uint32_t reserved;
    uint64_t rsp0;
    uint8_t rest[90];
    uint16_t io_map;
} __attribute__((packed));

/* Of a virtual CPU, at the bottom of its page in ring 0's memory; its stack grows down from the top of the page. */
struct cpu {
    uint64_t scratch;
    uint64_t stack;
    struct slot *slot;
    uint64_t *regs; /* in the signal frame in the slot: the order of struct sigcontext */
    char *fp;
    uint64_t xcr0;
    uint32_t ask;
    uint32_t told;
    uint64_t vector, error, address; /* of an exception; `address`: CR2, or DR6 */
    uint64_t gdt[GDT_ENTRIES];
    struct tss tss;
};

/* The entry code's frame on ring 0's stack. */
struct trap {
    uint64_t regs[15]; /* r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx */
    uint64_t vector, error;
    uint64_t rip, cs, flags, rsp, ss;
};

/* Offsets in struct sigcontext, in words. */
enum { AT_RAX = 13, AT_RSP = 15, AT_RIP, AT_FLAGS, AT_ERROR = 19, AT_TRAP, AT_MASK, AT_CR2 };

/* A thread's record, at the bottom of its stack in the loop. */
struct thread {
    struct cpu *cpu;
    struct kvm_run *run;
    struct slot *slot;
    int fd;
    uint32_t is_kicked; /* set by the signal's handler */
    uint32_t failures;  /* of the host to make an access, in a row */
};

struct area {
    uint64_t start, end;
    uint32_t bits; /* PROT_* as the guest has them, AREA_* */
    uint32_t pad;
};

struct loop { /* the loop's state: private memory, which a fork copies as it is */
    uint32_t lock;
    int32_t vm;
    uint32_t threads;
    uint32_t areas_used;
    uint32_t blocks_used; /* places that are, or were */
    uint32_t blocks_live;
    uint32_t blocks_max;
    uint32_t sweep_at; /* so many live blocks */
    uint32_t tables_used; /* that are, or were */
    uint32_t tables_live;
    uint32_t tables_free; /* the first of those that are free again, 0: none */
    uint32_t vain;
    uint64_t regs_offset, fp_offset; /* in a slot */
    uint64_t xcr0;
    uint64_t cr4;
    uint64_t vdso_end; /* of [vvar] and [vdso], 0: there is none */
    int32_t cpus[SLOT_COUNT];      /* descriptors of virtual CPUs, by slot; 0: none */
    uint32_t used[MAX_USED];       /* blocks, in the order of their memory slots, or NO_BLOCK */
    uint16_t first_table[MAX_USED]; /* of each of those */
    uint16_t next_table[TABLES];    /* of the same block, or free */
    uint16_t span_of[TABLES];       /* which 2 MiB of its block a table is for, or WHOLE_BLOCK */
    uint16_t places[BLOCKS];       /* of a block among those, plus 1 */
    struct kvm_cpuid2 cpuid;
    struct kvm_cpuid_entry2 entries[MAX_CPUID];
    struct area areas[MAX_AREAS];
};
_Static_assert(sizeof(struct loop) <= LOOP_DATA_SIZE, "struct loop");
_Static_assert(sizeof(struct cpu) < 1024, "struct cpu leaves too little for ring 0's stack");
_Static_assert(offsetof(struct cpu, scratch) == CPU_SCRATCH, "cpu: scratch");
_Static_assert(offsetof(struct cpu, stack) == CPU_STACK, "cpu: stack");

#define LOOP ((struct loop *)LOOP_DATA_BASE)
#define IDT_BASE (RING0_BASE + SLOT_COUNT * PAGE)

/* areas.c: the guest's mappings */
uint32_t area_from(uint64_t addr);
bool areas_have_room(void);
void areas_remove(uint64_t start, uint64_t end);
void areas_set(uint64_t start, uint64_t end, uint32_t bits);
void areas_change(uint64_t start, uint64_t end, uint32_t mask, uint32_t bits);
void areas_forked(void);

/* tables.c: page tables */
void map_fixed(uint64_t addr, uint64_t gpa, uint64_t length, uint32_t prot, bool is_user);
void clear_entries(uint64_t start, uint64_t end);
bool fill_entries(uint64_t start, uint64_t end);
bool touch_block(uint64_t addr);
bool has_room(uint64_t addr);

/* vm.c: the machine */
void make_vm(void);
bool make_cpu(uint64_t slotno);
void start_cpu(struct thread *t, uint64_t slotno);
bool add_memory(uint32_t number, uint32_t flags, uint64_t gpa, uint64_t length, uint64_t host);
void flush_all(void);
void __attribute__((noreturn)) end_for_memory(void);
void __attribute__((noreturn)) end_process(uint32_t why); /* the line, or for what ring 0 or KVM_RUN came back */

/* orders.c: host operations */
void lock_loop(void);
void unlock_loop(void);

/* loop.c */
bool lies_in(uint64_t addr, uint64_t length, uint64_t base, uint64_t size);
void __attribute__((noreturn)) kvm_begin(struct ucontext *uc, bool is_fork);

/* ring0.S */
extern char ring0_begin[], ring0_end[]; /* the linker's */
extern char ring0_call[], ring0_start[], ring0_vectors[], ring0_iret[];
extern char ring0_copy_begin[], ring0_copy_end[], ring0_copy_fault[];
extern char ring0_string_begin[], ring0_string_end[], ring0_string_fault[];
long ring0_copy(void *to, const void *from, uint64_t length);

/* ring0_umip.c */
bool ring0_store(struct trap *trap);

/* ring0_prefetch.c */
void ring0_prefetch(volatile struct slot *slot, uint64_t nr, const int64_t *args);

#endif
