/* The start of the zygote: nothing of this runs in a guest. */
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
    long error;
    /* Whatever the program loader left: the old stack, the vdso's first place. */
    for (uint64_t i = 0; i < start->boot.move_count && i < MAX_MOVES; i++) {
        uint64_t *move = start->boot.moves[i];
        error = call6(__NR_mremap, move[0], move[1], move[1], 3, move[2], 0);
        if (error < 0)
            die(5, error);
    }
    call2(__NR_munmap, MIN_ADDRESS, STUB_BASE - MIN_ADDRESS);
    call2(__NR_munmap, STUB_BASE + STUB_SIZE, INFO_BASE - STUB_BASE - STUB_SIZE);
    call2(__NR_munmap, INFO_BASE + INFO_SIZE, VDSO_BASE - INFO_BASE - INFO_SIZE);
    call2(__NR_munmap, VDSO_BASE + VDSO_SIZE, REGION_BASE - VDSO_BASE - VDSO_SIZE);
    call2(__NR_munmap, REGION_BASE + REGION_SIZE, END_ADDRESS - REGION_BASE - REGION_SIZE);

    struct sigaction action = {(__sighandler_t)(void *)stub_handler, SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTORER,
                               (__sigrestore_t)(void *)stub_restorer, ~(1ULL << (SIGSEGV - 1) | 1ULL << (SIGBUS - 1))};
    static const uint8_t signals[] = {SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, INTERRUPT_SIGNAL};
    for (unsigned i = 0; i < sizeof signals; i++) {
        error = call4(__NR_rt_sigaction, signals[i], &action, 0, 8);
        if (error < 0)
            die(6, error);
    }
    uint64_t stack[3] = {REGION_BASE + STACK_OFFSET, 0, STACK_SIZE};
    error = call2(__NR_sigaltstack, stack, 0);
    if (error < 0)
        die(7, error);
    uint64_t mask = 0;
    call4(__NR_rt_sigprocmask, 2, &mask, 0, 8);

    uint32_t caps[2] = {0x20080522, 0};
    uint32_t none[6] = {0, 0, 0, 0, 0, 0};
    call2(__NR_capset, caps, none);
    call3(__NR_prctl, 47, 4, 0); /* PR_CAP_AMBIENT_CLEAR_ALL */
    error = call6(__NR_prctl, 38, 1, 0, 0, 0, 0); /* PR_SET_NO_NEW_PRIVS */
    if (error < 0)
        die(8, error);

    call3(__NR_membarrier, 4, 0, 0); /* REGISTER_GLOBAL_EXPEDITED, inherited by forks: guests' barriers are the sentry's */

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
    /* Where the host refuses ADDR_NO_RANDOMIZE the stack may lie where the region goes: be started again. */
    if ((uint64_t)stack >= STUB_BASE && (uint64_t)stack < REGION_BASE + REGION_SIZE + 0x1000000)
        die(10, 0);
    long error = call6(__NR_mmap, REGION_BASE, REGION_SIZE, 3, 0x11, REGION_FD, 0);
    if (error != (long)REGION_BASE)
        die(1, error);
    error = call6(__NR_mmap, INFO_BASE, INFO_SIZE, 1, 0x11, INFO_FD, 0);
    if (error != (long)INFO_BASE)
        die(2, error);
    /* The sentry decides what moves where: it knows the layout of the vDSO's areas from its own. */
    const uint64_t *at = stack + 1 + stack[0] + 1;
    while (*at)
        at++;
    int64_t hello[2] = {0, 0};
    for (at++; at[0]; at += 2)
        if (at[0] == 33) /* AT_SYSINFO_EHDR */
            hello[0] = at[1];
    call3(__NR_write, SOCK_FD, hello, sizeof hello);
    error = call3(__NR_read, SOCK_FD, &START->boot, sizeof START->boot);
    if (error != sizeof START->boot)
        die(3, error);
    call3(__NR_close_range, 0, SOCK_FD - 1, 0);
    error = call3(__NR_close_range, SOCK_FD + 1, ~0U, 0);
    if (error < 0)
        die(3, error);
    /* Not slot 0's signal stack: a signal that comes on it would not put its frame at the top. */
    stub_switch((void *)(REGION_BASE + 3 * SLOT_SIZE), on_slot_stack, 0);
}
