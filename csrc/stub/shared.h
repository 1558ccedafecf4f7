/* What the stub and the sentry agree on: addresses, the layout of a slot and of the info page.
 *
 * Everything in a slot is writable by the guest.  The sentry treats each byte as hostile: it reads a field once.
 */
#ifndef CLOCHE_SHARED_H
#define CLOCHE_SHARED_H

#include <stdint.h>

/* Guest addresses.  [0, MAX_ADDRESS) belongs to the guest, the 4 GiB above it are never mapped: a length that
 * the direct-mode filter admits cannot reach the stub from below. */
#define MIN_ADDRESS 0x10000ULL
#define MAX_ADDRESS 0x7ffe00000000ULL
#define STUB_BASE 0x7fff00000000ULL /* stub.ld says the same */
#define STUB_SIZE 0x10000ULL
#define INFO_BASE 0x7fff00100000ULL
#define INFO_SIZE 0x14000ULL
#define VDSO_BASE 0x7fff00200000ULL /* [vvar] and [vdso] are moved here, in order */
#define VDSO_SIZE 0x100000ULL
#define REGION_BASE 0x7fff10000000ULL
#define SLOT_SIZE 0x20000ULL
#define SLOT_COUNT 1024
#define REGION_SIZE (SLOT_SIZE * SLOT_COUNT)
#define DATA_OFFSET 0x1000
#define DATA_SIZE 0x10000
#define CALL_STACK_TOP (DATA_OFFSET + DATA_SIZE + 0x1000) /* of calls that come without a signal */
#define STACK_OFFSET CALL_STACK_TOP
#define STACK_SIZE (SLOT_SIZE - STACK_OFFSET)
#define CALL_ENTRY_OFFSET 0x200 /* of stub_call in the stub: trampolines jump there (stub.ld says the same) */

/* Files that large reads are copied from (window.h). */
#define WINDOW_BASE 0x7fff20000000ULL
#define WINDOW_SIZE 0x8000000ULL
#define WINDOWS 16

/* States of a slot. */
#define ST_GUEST 0
#define ST_REQUEST 1
#define ST_SLEEPING 2
#define ST_REPLY 3
#define ST_WAIT 4 /* a taken request that will not be answered soon: do not spin for it */

/* Kinds of request. */
#define K_SYSCALL 1
#define K_FAULT 2
#define K_INTERRUPTED 3
#define K_OPS_FAILED 4
#define K_MORE 5 /* the reply was one round of several: send the next */

#define K_DONE 6 /* the sentry's own: K_MORE after everything was sent */
#define K_CALL 7 /* a system call from a patched call site: there is no signal frame */
#define K_CUT 8  /* a copy from a window met a fault: the call is to be done without windows */

/* A reply: flags, the number of operations in bits 16 to 23, of copies in bits 24 to 31. */
#define RF_MORE 1     /* post K_MORE instead of returning to the guest */
#define RF_SET_BASE 2 /* load fs_base and gs_base */
#define RF_RESULT 4   /* `result` is the call's */
/* To a K_CALL only, at most one of them: */
#define RF_TRAP 8   /* make the call again from its own syscall instruction, with a signal frame */
#define RF_SWAP 64 /* (with RF_MORE) change the word that `swap_addr` names */
/* The operations of FUTEX_WAKE_OP, plus 1 (platform/interface.py has the same). */
#define SWAP_SET 1
#define SWAP_ADD 2
#define SWAP_OR 3
#define SWAP_ANDN 4
#define SWAP_XOR 5
#define RF_WAKE 32 /* (to any) first wake the threads whose bells are in `wakes` */
#define RF_STOP 16  /* the call is over: stop behind it, with a signal frame, and post K_INTERRUPTED */

#define MAX_OPS 40
#define MAX_COPIES 64
#define MAX_PREFETCH 3
#define MAX_WAKES 4
#define NO_BELL 0xffffffffU
#define BELLS 16384 /* a power of two */

#define INTERRUPT_SIGNAL 23 /* SIGURG */

/* sched_yield with these arguments is the doorbell. */
#define BELL_ARG0 0x636c6f63686562ULL
#define BELL_ARG1 0x656c6cULL

struct op {
    uint64_t nr;
    uint64_t args[6];
    uint64_t extra; /* clone: the descriptor of the child's region */
};

struct copy {
    uint64_t addr;
    uint32_t length;
    uint32_t offset; /* from the slot's data buffer, or with FROM_WINDOW from WINDOW_BASE */
};
#define FROM_WINDOW 0x80000000U

/* What a call costs is how many cache lines change hands: a simple call takes the first, and the second for what was
 * prefetched; a reply without copies the first. */
struct slot {
    uint32_t state;
    union {
        uint32_t kind; /* and from bit 16 on the processor that it comes from: a hint */
        uint32_t reply;
    };
    union {
        int64_t sysno;
        int64_t result;
    };
    int64_t args[6];
    /* 0x40 */
    uint32_t prefetch_count;
    uint32_t tid; /* a candidate only: the guest can write it */
    struct copy prefetch[MAX_PREFETCH];
    uint64_t pad0;
    /* 0x80 */
    uint32_t ops_done; /* replies with operations that were carried out */
    uint32_t ring;     /* the sentry's wish: ring the doorbell once the operations are done */
    uint32_t fail_index;
    int32_t fail_errno;
    struct copy copies[MAX_COPIES];
    uint32_t wakes[MAX_WAKES]; /* ended by NO_BELL */
    uint32_t bell;             /* which of info's is this thread's */
    uint32_t pad2;
    /* 0x4a8: the stub's own, and what is rarely looked at */
    uint32_t signo;
    int32_t code;
    uint64_t addr;
    uint64_t fs_base;
    uint64_t gs_base;
    uint64_t call_regs[10]; /* CR_*: of the call from a patched site that is under way */
    uint32_t interrupted;   /* an interrupt came meanwhile */
    uint32_t can_answer;    /* `answers` holds */
    uint32_t answers[8];    /* what the stub may answer by itself */
    uint64_t swap_addr;     /* RF_SWAP: the word to change, ... */
    uint32_t swap_old;      /* what it must hold, then what it held */
    uint32_t swap_new;
    uint32_t swap_failed;   /* it cannot be read and written */
    uint32_t swap_op;       /* SWAP_*: how it changes, whatever it holds, by the operand swap_new; 0: to swap_new */
    uint8_t pad1[0x600 - 0x558];
    struct op ops[MAX_OPS];
};

/* Offsets that entry.S uses (stub.c checks them). */
#define CR_RBX 0
#define CR_RBP 1
#define CR_R12 2
#define CR_R13 3
#define CR_R14 4
#define CR_R15 5
#define CR_RSP 6
#define CR_RIP 7 /* behind the syscall instruction */
#define CR_FLAGS 8 /* lahf's and seto's AH and AL */
#define CR_RAX 9 /* the number, then the result */

#define AN_COUNT 7 /* answers: pid, tid, ppid, uid, euid, gid, egid */

_Static_assert(sizeof(struct slot) == 0x1000, "a slot's control page is one page");

/* Prefetch descriptors: what to copy into the data buffer along with a syscall. */
#define PF_NONE 0
#define PF_CSTRING 1 /* a C string of at most `value` bytes */
#define PF_FIXED 2   /* `value` bytes */
#define PF_ARG 3     /* the number of bytes in argument `count_arg` times `value`, at most `cap` */

struct prefetch {
    uint8_t kind;
    uint8_t arg;
    uint8_t count_arg;
    uint8_t pad;
    uint16_t value;
    uint16_t cap;
};

struct info {
    uint32_t asleep; /* the sentry sleeps: ring */
    uint32_t pad;
    uint64_t spin_ticks; /* how long a stub spins before it sleeps */
    uint64_t pad2[6];
    uint8_t actions[512];                        /* ACT_* for each call from a patched site */
    struct prefetch prefetch[512][MAX_PREFETCH]; /* 12 KiB */
    uint32_t bells[BELLS]; /* sleeping threads wait for a change of theirs */
};

_Static_assert(sizeof(struct info) <= INFO_SIZE, "the info page is larger than INFO_SIZE");

/* What a call from a patched site does. */
#define ACT_TRAP 0   /* needs a signal frame */
#define ACT_POST 1   /* goes to the sentry */
#define ACT_ANSWER 2 /* + index: answers[index], if can_answer */

/* What the sentry sends to the starting zygote. */
#define MAX_MOVES 8
#define MAX_FILTER 256
struct boot {
    uint64_t move_count;
    uint64_t moves[MAX_MOVES][3]; /* old address, length, new address */
    uint64_t filter_count;
    uint64_t filter_flags;
    uint64_t filter[MAX_FILTER]; /* struct sock_filter */
};

#endif
