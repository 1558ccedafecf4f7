/* The layout of a slot and of the info page, which the stub and the sentry share.  Numbers: platform/layout.py.
 *
 * Everything in a slot is writable by the guest.  The sentry treats each byte as hostile: it reads a field once.
 */
#ifndef CLOCHE_SHARED_H
#define CLOCHE_SHARED_H

#include <stddef.h>
#include <stdint.h>

#include "layout.h"

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

/* The cost of a call is the number of cache lines that change hands: a simple call takes the first, and the second
 * for prefetched bytes; a reply without copies the first. */
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
    uint32_t bell;             /* the index of this thread's bell in the info page */
    uint32_t pad2;
    /* 0x4a8: the stub's own fields, and those that are rarely read */
    uint32_t signo;
    int32_t code;
    uint64_t addr;
    uint64_t fs_base;
    uint64_t gs_base;
    uint64_t call_regs[10]; /* CR_*: of the call from a patched site that is under way */
    uint32_t interrupted;   /* an interrupt came meanwhile */
    uint32_t can_answer;    /* `answers` holds */
    uint32_t answers[8];    /* the answers that the stub may give by itself */
    uint64_t swap_addr;     /* RF_SWAP: the word to change, ... */
    uint32_t swap_old;      /* its expected value, then its old value */
    uint32_t swap_any;      /* it changes whatever its value; swap_old is a guess */
    uint32_t swap_keep;     /* it becomes ((old & keep) + add) ^ flip */
    uint32_t swap_add;
    uint32_t swap_flip;
    uint32_t swap_failed;   /* it cannot be read and written */
    uint64_t exits[EXIT_REASONS]; /* platform kvm: how often its virtual CPU came back, by reason; [0]: by a signal or an error */
    uint8_t pad1[0x600 - 0x560 - 8 * EXIT_REASONS];
    struct op ops[MAX_OPS];
};

struct prefetch { /* a range to copy into the data buffer along with a system call */
    uint8_t kind; /* PF_* */
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
    uint8_t actions[MAX_CALLS]; /* ACT_* for each call from a patched site */
    struct prefetch prefetch[MAX_CALLS][MAX_PREFETCH];
    uint32_t bells[BELLS]; /* sleeping threads wait for a change of theirs */
};

struct boot { /* sent by the sentry to the starting zygote */
    uint64_t op_count;
    struct op ops[MAX_START_OPS]; /* `extra`: the step that has failed if it does; 0: no matter */
    uint8_t data[START_DATA_SIZE]; /* the memory that they point to */
    uint64_t filter_count;
    uint64_t filter_flags;
    uint64_t filter[MAX_FILTER]; /* struct sock_filter */
};

#include "offsets.h" /* asserts the offsets in layout.py */

_Static_assert(sizeof(struct slot) == 0x1000, "a slot's control page is one page");
_Static_assert(sizeof(struct prefetch) == PREFETCH_BYTES, "struct prefetch");
_Static_assert(sizeof(struct info) <= INFO_SIZE, "the info page is larger than INFO_SIZE");
_Static_assert(REGION_BASE % REGION_SIZE == 0, "REGION_BASE");

#endif
