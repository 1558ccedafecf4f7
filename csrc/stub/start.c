/* The start of the zygote: nothing of this runs in a guest. The sentry sends it the system calls to make
 * (platform/zygote.py); this file does the rest. */
#include "stub.h"

struct start { /* at the bottom of slot 1's data buffer */
    struct boot boot;
    volatile int32_t listener; /* the descriptor + 1; 0: not yet */
    volatile uint32_t sent;
};

#define START ((struct start *)(REGION_BASE + SLOT_SIZE + DATA_OFFSET))

static void __attribute__((noreturn)) die(long where, long error)
{
    int64_t message[2] = {-where, error};
    call3(__NR_write, SOCK_FD, message, sizeof message);
    call1(__NR_exit_group, 1);
    __builtin_unreachable();
}

/* A thread without the filter: sends the listener, which the filtered thread could not. */
void stub_helper(void)
{
    struct start *start = START;
    while (!start->listener)
        call4(__NR_futex, &start->listener, FUTEX_WAIT, 0, 0);
    uint64_t message[2] = {1, 0}, iov[2] = {(uint64_t)message, sizeof message};
    uint64_t control[3] = {20, 1ULL << 32 | 1, start->listener - 1};                     /* SOL_SOCKET, SCM_RIGHTS */
    uint64_t header[7] = {0, 0, (uint64_t)iov, 1, (uint64_t)control, sizeof control, 0}; /* struct msghdr */
    call3(__NR_sendmsg, SOCK_FD, header, 0);
    start->sent = 1;
    call4(__NR_futex, &start->sent, FUTEX_WAKE, 1, 0);
    call1(__NR_exit, 0);
}

static void on_slot_stack(void *unused)
{
    (void)unused;
    struct start *start = START;
    struct op *ops = start->boot.ops;
    for (uint64_t i = 0; i < start->boot.op_count && i < MAX_START_OPS; i++) {
        uint64_t *a = ops[i].args;
        long error = call6(ops[i].nr, a[0], a[1], a[2], a[3], a[4], a[5]);
        if (ops[i].extra && error < 0)
            die(ops[i].extra, error);
    }
    long error = prepare(&start->boot);
    if (error < 0)
        die(12, error);
    error = stub_thread(0x50f00, (void *)(REGION_BASE + 2 * SLOT_SIZE - 256));
    if (error < 0)
        die(4, error);
    struct {
        uint16_t count;
        uint64_t program;
    } filter = {start->boot.filter_count, (uint64_t)start->boot.filter};
    long listener = call3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, start->boot.filter_flags, &filter);
    if (listener < 0)
        die(9, listener);
    start->listener = listener + 1;
    call4(__NR_futex, &start->listener, FUTEX_WAKE, 1, 0);
    while (!start->sent)
        call4(__NR_futex, &start->sent, FUTEX_WAIT, 0, 0);
    call1(__NR_close, SOCK_FD);
    call1(__NR_close, listener);
    for (unsigned i = 0; i < sizeof *start; i++)
        ((volatile char *)start)[i] = 0;
    ((void (*)(void))stub_park)();
}

void stub_main(const uint64_t *stack)
{
    /* Where the host refuses ADDR_NO_RANDOMIZE the stack may lie in the region's place: have it started again. */
    if ((uint64_t)stack >= STUB_BASE && (uint64_t)stack < REGION_BASE + REGION_SIZE + 0x1000000)
        die(10, 0);
    long error = call6(__NR_mmap, REGION_BASE, REGION_SIZE, 3, 0x11, REGION_FD, 0);
    if (error != (long)REGION_BASE)
        die(1, error);
    error = call6(__NR_mmap, INFO_BASE, INFO_SIZE, 1, 0x11, INFO_FD, 0);
    if (error != (long)INFO_BASE)
        die(2, error);
    /* The sentry decides about the next steps: it knows the layout of the vDSO's areas from its own. */
    const uint64_t *at = stack + 1 + stack[0] + 1;
    while (*at)
        at++;
    int64_t hello[4] = {0, (int64_t)stub_handler, (int64_t)stub_restorer, 0};
    for (at++; at[0]; at += 2)
        if (at[0] == 33) /* AT_SYSINFO_EHDR */
            hello[0] = at[1];
    call3(__NR_write, SOCK_FD, hello, sizeof hello);
    error = call3(__NR_read, SOCK_FD, &START->boot, sizeof START->boot);
    if (error != sizeof START->boot)
        die(3, error);
    /* Not slot 0's signal stack: a signal that comes on it would not put its frame at the top. */
    stub_switch((void *)(REGION_BASE + 3 * SLOT_SIZE), on_slot_stack, 0);
}
