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
#define INFO_SIZE 0x4000ULL
#define VDSO_BASE 0x7fff00200000ULL /* [vvar] and [vdso] are moved here, in order */
#define VDSO_SIZE 0x100000ULL
#define REGION_BASE 0x7fff10000000ULL
#define SLOT_SIZE 0x20000ULL
#define SLOT_COUNT 1024
#define REGION_SIZE (SLOT_SIZE * SLOT_COUNT)
#define DATA_OFFSET 0x1000
#define DATA_SIZE 0x10000
#define STACK_OFFSET (DATA_OFFSET + DATA_SIZE)
#define STACK_SIZE (SLOT_SIZE - STACK_OFFSET)

/* States of a slot. */
#define ST_GUEST 0
#define ST_REQUEST 1
#define ST_SLEEPING 2
#define ST_REPLY 3

/* Kinds of request. */
#define K_SYSCALL 1
#define K_FAULT 2
#define K_INTERRUPTED 3
#define K_OPS_FAILED 4
#define K_MORE 5 /* the reply was one round of several: send the next */

#define K_DONE 6 /* the sentry's own: K_MORE after everything was sent */

/* Reply flags. */
#define RF_MORE 1     /* post K_MORE instead of returning to the guest */
#define RF_SET_BASE 2 /* load fs_base and gs_base */
#define RF_RING 4     /* ring the doorbell once the operations are done */

#define MAX_OPS 44
#define MAX_COPIES 64
#define MAX_PREFETCH 3

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
    uint32_t offset; /* from the slot's data buffer */
};

struct slot {
    uint32_t state;
    uint32_t kind;
    uint32_t signo;
    int32_t code;
    uint64_t addr;
    int64_t sysno;
    int64_t args[6];
    uint64_t fs_base;
    uint64_t gs_base;
    uint32_t reply_flags;
    uint32_t ops_done; /* replies with operations that were carried out */
    uint32_t op_count;
    uint32_t copy_count;
    uint32_t fail_index;
    int32_t fail_errno;
    uint32_t tid; /* a candidate only: the guest can write it */
    uint32_t prefetch_count;
    struct copy prefetch[MAX_PREFETCH];
    uint8_t pad[0x100 - 0x80 - 16 * MAX_PREFETCH];
    struct op ops[MAX_OPS];
    struct copy copies[MAX_COPIES];
};

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
    struct prefetch prefetch[512][MAX_PREFETCH]; /* 12 KiB */
};

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
