/* cloche.platform._native: the parts of the systrap platform that would be too slow in Python.
 *
 * The sentry's own records of guests. Handles that Python sees are small integers; policy (which orders to give when,
 * which files stay mapped, when a window pays) is in Python.
 *
 * Trust: every byte of a slot is the guest's.  A field is read once (READ_ONCE), checked, and used from the local copy.
 * `struct thr` and `struct prc` alone decide which calls of the host a guest can cause.
 *
 * One thread at a time: no locks.  The GIL is released only inside epoll_wait and in calls that may take long (lanes.c).
 */
#ifndef CLOCHE_STATE_H
#define CLOCHE_STATE_H

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#undef EV_NONE /* elf.h has another */
#include "shared.h"

#define READ_ONCE(x) (*(volatile __typeof__(x) *)&(x))
#define KEPT_FDS (LAST_KEPT - FIRST_KEPT + 1)
#define REG_COUNT 18
#define RAX_INDEX 13

enum state { NONE, COMING, USABLE }; /* sharing.c */

struct hop { /* an ordered operation: the sentry's own copy */
    struct op op;
    int fd;            /* to inject with its notification, or -1 */
    bool notified;     /* the filter notifies the sentry */
    struct thr *child; /* clone: the thread that it starts (child_of); else NULL */
    uint64_t child_serial;
    int64_t child_ident; /* fork: of the process */
    bool parked;         /* ... stays stopped in its slot (a blank) */
    uint8_t gift_count;  /* not 0: it does nothing, its notification brings `gifts` (kept.c) */
    uint8_t gift_numbers[KEPT_FDS];
    int gifts[KEPT_FDS];
};

struct rec { /* a deferred write */
    uint64_t addr;
    uint32_t length;
    uint32_t offset; /* in the slot's data buffer, or in `wbuf` */
    bool spilled;
};

struct thr {
    int id; /* this, and the buffers, outlive the thread */
    int op_room, rec_room, hash_next;
    struct thr *next_free;
    size_t wbuf_room;
    struct hop *ops;
    struct rec *recs;
    char *wbuf;

    bool used;
    bool running;         /* in the guest, or on its way: in the run list */
    bool held;            /* resumed, and waits for the process's operations under way (orders.c) */
    bool is_parked;       /* its task has exited: the host thread waits to be another's */
    bool born;            /* the clone that starts it was let through */
    bool exiting, exited; /* its exit was ordered; was let through */
    bool gone;            /* discarded: no handle any more, the slot stays taken until the host thread is gone */
    bool irq_wanted, irq_unsent;
    bool is_waking;   /* a wake-up is under way */
    bool has_frame;   /* stopped with a signal frame; else in a call from a patched site */
    bool is_patched;  /* GS finds its slot, unless the guest has set GS */
    bool has_result;  /* `result` is to be the call's */
    bool base_changed, swaps;
    uint8_t owes;     /* OWES_*: what it must post before any guest code runs */
    uint8_t doubt;    /* DOUBT_*: it has reported the failure of a batch with a clone that was let through */
    int doubt_at, doubt_error;
    struct prc *prc;
    struct slot *slot;
    int slotno, tid, exit_tid, run_pos;
    uint64_t serial; /* never reused */
    uint64_t irq_since, held_turn;
    int64_t result;
    uint32_t leave_flags; /* 0 or RF_STOP */
    uint32_t reply;       /* what the slot's is to be */
    struct thr *unpark;   /* a parked thread that starts when this one goes on, or NULL */
    uint64_t unpark_serial;
    int op_count, sent, matched, round_start;
    int must_match;  /* operations before it that are notified have to be let through, or are not done */
    int clone_at;    /* the clone among them, or -1 */
    uint32_t rounds;
uint64_t holds; /* HOLD_*: windows and descriptors that its queue, or a reply that it has not answered, relies on
                        (sharing.c) */
    int rec_count, rec_sent;
    size_t wbuf_used;
    uint32_t data_used;
    int prefetch_count;
    struct copy prefetch[MAX_PREFETCH];
};

#define OWES_DONE 1    /* K_DONE, when the queue is done: no guest code runs before */
#define OWES_STOP 2    /* K_INTERRUPTED after its call: no other call comes before */
#define DOUBT_ASKED 1  /* it is to make another call: then the clone is over */
#define DOUBT_PROVEN 2 /* there is no child */

/* Windows, then kept descriptors, which the threads of a process share (sharing.c). */
#define SHARED (WINDOWS + KEPT_FDS)
#define AT_KEPT(number) (WINDOWS + (number) - FIRST_KEPT)
#define HOLD(i) (1ULL << (i))
#define HOLD_WINDOWS (HOLD(WINDOWS) - 1)
#define OWNS_COMING (1ULL << 62)   /* it is the owner of something that is COMING */
#define AVOID_WINDOWS (1ULL << 63) /* its call is done once more, without them */
_Static_assert(SHARED <= 62, "thr.holds is too small");

struct shared {
    uint64_t file, part; /* a window's: key, and offset in the file; a descriptor's: device, inode */
    uint32_t stamp;      /* of its last use */
    enum state state;
    struct thr *owner; /* COMING: the thread whose operations bring it */
    int op;            /* a window: the number of its mmap in the owner's queue */
    bool is_open;      /* a descriptor: the process may have something under this number, whatever the state */
};

struct prc {
    int id;
    bool used, dead, kill_wanted;
    bool forks_blank; /* the zygote: no call waits for its child */
    bool cloned;      /* a clone was let through, and its child has not been adopted */
    int pid;          /* 0: unborn; -1: dead */
    int region_fd;
    char *region;
    int64_t ident;        /* never reused */
    uint64_t calls;       /* system calls that came */
    struct prc *adopting; /* a child that has been ordered and not yet adopted, or NULL */
    int orphan_group;     /* the number of its parent, which has ended before this process was adopted, or 0 */
    uint64_t orphan_since;
    struct thr *op_thr;   /* the thread with operations outstanding, or NULL */
    uint64_t op_since;
    int fork_fd;
    uint32_t injections;
    int held_count, rec_threads;
    uint32_t stamp;
    struct shared shared[SHARED];
    int slot_high;
    struct thr *slots[SLOT_COUNT];
};

struct running {
    struct thr *thr;
    volatile uint32_t *state; /* the slot's */
};

struct event {
    int64_t v[9];
};

extern struct thr **thrs;
extern int thr_count;
extern struct prc **prcs;
extern int prc_count;
extern struct running *runs; /* the threads that run guest code, or are on their way */
extern int run_count;

extern struct info *info;
extern int epoll_fd, listener;
extern uint64_t frame_offset, fp_offset, fp_size; /* of the signal frame in a slot; of its FP state; its size */

extern int ops_out;    /* processes with operations outstanding */
extern int held_total; /* threads that wait for their process's operations */
extern int irq_unsent_total;
extern int newborn;    /* processes that were forked and not yet adopted, without blanks */
extern int owing;      /* threads that owe an exit or a proof */
extern int orphan_count; /* forks that were let through and not adopted before their parents ended */
extern bool is_sync;   /* notifications are answered on one processor: set_sync */
extern uint64_t liar_count, notified_count; /* processes ended for false reports; notifications */

#endif
