/* A thread's loop: runs guest code until ring 0 makes a request, and has the stub's code carry it out. */
#include "kvm.h"

#define MAX_FAILURES 3
#define BUS_NO_ADDRESS 2
#define DR6_STEP 0x4000

static struct thread *own_thread(const void *on_stack)
{
    return (struct thread *)((uint64_t)on_stack & ~((1ULL << LOOP_SHIFT) - 1));
}

/* The signal of an interrupt has come, on the loop's stack. */
static void kick(void)
{
    struct thread *t = own_thread(__builtin_frame_address(0));
    t->is_kicked = 1;
    if (t->run)
        *(volatile uint8_t *)&t->run->immediate_exit = 1; /* works on the next entry, too */
}

/* In the zygote: all signal frames will lie where its first one does. */
static void learn(const struct ucontext *uc)
{
    uint64_t slot = (uint64_t)uc & ~(SLOT_SIZE - 1);
    LOOP->regs_offset = (uint64_t)&uc->uc_mcontext - slot;
    LOOP->fp_offset = (uint64_t)uc->uc_mcontext.fpstate - slot;
}

/* False: the signal is one of the zygote's, which the stub handles. */
bool loop_signal(int signo, const struct ucontext *uc)
{
    if (signo == SIGILL) {
        learn(uc);
        return false;
    }
    if (signo != INTERRUPT_SIGNAL)
        end_process(__LINE__);
    kick();
    return true;
}

/* ---- a reply's changes to memory: only the guest's own is ever changed ---- */

static bool is_guests(uint64_t addr, uint64_t length)
{
    return addr < MAX_ADDRESS && length <= MAX_ADDRESS - addr;
}

bool lies_in(uint64_t addr, uint64_t length, uint64_t base, uint64_t size)
{
    return addr - base < size && length <= size - (addr - base);
}

/* From the slots, or from a window.  As stub_copy. */
long loop_copy(void *to, const void *from, uint64_t length)
{
    bool is_known = lies_in((uint64_t)from, length, REGION_BASE, REGION_SIZE) ||
                    lies_in((uint64_t)from, length, WINDOW_BASE, WINDOWS * WINDOW_SIZE);
    return is_known && is_guests((uint64_t)to, length) ? stub_copy(to, from, length) : -1;
}

/* As stub_swap. */
long loop_swap(void *word, volatile uint32_t *old, uint32_t new)
{
    return is_guests((uint64_t)word, sizeof *old) ? stub_swap(word, old, new) : 1;
}

/* ---- faults ---- */

/* Whether the host can make such an access. */
static bool probe(uint64_t addr, bool is_write)
{
    uint32_t old = 0;
    char byte;
    return !(is_write ? stub_swap((void *)(addr & ~3ULL), &old, 0) : stub_copy(&byte, (void *)addr, 1));
}

/* A page fault of guest code: 0: it can be made again, else signal and code. */
static uint32_t page_fault(uint64_t addr, uint64_t error, int32_t *code)
{
    uint32_t need = error & 2 ? PROT_WRITE : error & 16 ? PROT_EXEC : PROT_ALL, signo = 0;
    lock_loop();
    uint32_t at = area_from(addr);
    const struct area *a = &LOOP->areas[at];
    if (addr >= MAX_ADDRESS || at == LOOP->areas_used || a->start > addr) {
        signo = SIGSEGV;
        *code = 1; /* SEGV_MAPERR */
    } else if (!(a->bits & need)) {
        signo = SIGSEGV;
        *code = 2; /* SEGV_ACCERR */
    } else if (!touch_block(addr) || !probe(addr, error & 2)) {
        signo = SIGBUS;
        *code = BUS_NO_ADDRESS;
    } else {
        uint64_t around = a->bits & AREA_FILE ? PAGE : 1ULL << 21, start = addr & ~(around - 1);
        bool is_filled = fill_entries(start, start + around) || (has_room(addr) && fill_entries(start, start + around));
        signo = is_filled ? 0 : SIGBUS;
        *code = BUS_NO_ADDRESS;
    }
    unlock_loop();
    return signo;
}

/* The host could not make an access, and does not tell which. Make every page fault anew: then the address is known. */
static void find_failure(struct thread *t)
{
    if (++t->failures > MAX_FAILURES)
        end_process(__LINE__);
    if (t->failures > 1) { /* not in the guest's own memory */
        t->is_kicked = 1;
        return;
    }
    lock_loop();
    clear_entries(0, MAX_ADDRESS);
    flush_all();
    unlock_loop();
}

static int32_t float_code(const struct thread *t, bool is_simd)
{
    const volatile uint8_t *fp = (const volatile uint8_t *)t->slot + LOOP->fp_offset;
    uint32_t mxcsr = *(const volatile uint32_t *)(fp + 24);
    uint32_t control = *(const volatile uint16_t *)fp, status = *(const volatile uint16_t *)(fp + 2);
    uint32_t raised = is_simd ? ~(mxcsr >> 7) & mxcsr & 0x3f : status & ~control & 0x3f;
    static const int32_t codes[] = {7, 3, 4, 5, 6}; /* FPE_FLTINV FLTDIV FLTOVF FLTUND FLTRES */
    static const uint8_t bits[] = {1, 4, 8, 0x12, 0x20};
    for (int i = 0; i < 5; i++)
        if (raised & bits[i])
            return codes[i];
    return 0;
}

/* An exception of guest code: false: it can go on.  Codes: arch/x86/kernel/traps.c. */
static bool fault(struct thread *t, volatile struct cpu *cpu, uint64_t *regs)
{
    volatile struct slot *slot = t->slot;
    uint64_t vector = cpu->vector, error = cpu->error, addr = cpu->address;
    uint32_t signo = SIGSEGV;
    int32_t code = 128; /* SI_KERNEL */
    if (vector == VECTOR_PAGE_FAULT) {
        signo = page_fault(addr, error, &code);
        if (!signo)
            return false;
        if (error == NOT_STORED) {
            /* without regard to what is mapped: force_sig_info_umip_fault, arch/x86/kernel/umip.c */
            signo = SIGSEGV;
            code = 1;
            error = 6;
        } else if (addr >= END_ADDRESS)
            error |= 1; /* as Linux: a program must not learn whether anything is mapped (sanitize_error_code) */
        regs[AT_CR2] = addr;
    } else {
        addr = regs[AT_RIP];
        if (vector == 0) {
            signo = SIGFPE;
            code = 1; /* FPE_INTDIV */
        } else if (vector == VECTOR_DEBUG) {
            signo = SIGTRAP;
            code = cpu->address & DR6_STEP ? 2 : 1; /* TRAP_TRACE TRAP_BRKPT */
        } else if (vector == 3) {
            signo = SIGTRAP;
            addr = 0;
        } else if (vector == 6) {
            signo = SIGILL;
            code = 2; /* ILL_ILLOPN */
        } else if (vector == 11 || vector == 12 || vector == VECTOR_BUS) {
            signo = SIGBUS;
            addr = 0;
        } else if (vector == 17) {
            signo = SIGBUS;
            code = 1; /* BUS_ADRALN */
            addr = 0;
        } else if (vector == 16 || vector == 19) {
            signo = SIGFPE;
            code = float_code(t, vector == 19);
        } else {
            addr = 0;
        }
    }
    regs[AT_ERROR] = error;
    regs[AT_TRAP] = vector;
    slot->signo = signo;
    slot->code = code;
    slot->addr = addr;
    return true;
}

/* ---- the loop ---- */

/* Run guest code until ring 0 makes a request -> that. */
static uint32_t enter(struct thread *t)
{
    volatile struct kvm_run *run = t->run;
    for (;;) {
        if (*(volatile uint32_t *)&t->is_kicked)
            run->request_interrupt_window = 1;
        long result = call3(__NR_ioctl, t->fd, KVM_RUN, 0);
        t->slot->exits[result < 0 ? 0 : run->exit_reason % EXIT_REASONS]++;
        if (result == -4) { /* EINTR: a signal */
            run->immediate_exit = 0;
        } else if (result == -14) { /* EFAULT */
            find_failure(t);
        } else if (result == NO_MEMORY) {
            end_for_memory();
        } else if (result < 0) {
            end_process(__LINE__);
        } else if (run->exit_reason == KVM_EXIT_HLT) {
            return ((volatile struct cpu *)t->cpu)->ask;
        } else if (run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN) {
            struct kvm_interrupt what = {t->failures > 1 ? VECTOR_BUS : VECTOR_INTERRUPT};
            t->is_kicked = run->request_interrupt_window = 0;
            if (call3(__NR_ioctl, t->fd, KVM_INTERRUPT, &what) < 0)
                end_process(__LINE__);
        } else {
            /* exits that an honest ring 0 never causes: EXIT_MMIO, a triple fault, ... */
            end_process(run->exit_reason << 16 | (run->internal.suberror & 0xffff));
        }
    }
}

/* The request that is about to be posted answers an interrupt that came before. */
static void forget_kick(struct thread *t)
{
    t->run->request_interrupt_window = 0;
    t->is_kicked = 0;
    t->failures = 0;
}

/* Handle a request of ring 0: whether one is posted to the sentry now. Otherwise guest code goes on. */
static bool take(struct thread *t, uint32_t asked, volatile struct cpu *cpu, uint64_t *regs)
{
    volatile struct slot *slot = t->slot;
    int32_t code;
    if (asked == ASK_BELL || asked == ASK_SERVE) {
        t->failures = 0; /* an interrupt may have come after the answer: it stays */
        if (asked == ASK_BELL)
            ring();
        return true;
    }
    if (asked == ASK_PAGE) {
        cpu->told = page_fault(cpu->address, cpu->error, &code) ? FIX_UP : RETRY;
        t->failures = 0;
        return false;
    }
    if (asked == ASK_FAULT && !fault(t, cpu, regs)) {
        cpu->told = RETRY;
        t->failures = 0;
        return false;
    }
    if (asked != ASK_FAULT && asked != ASK_INTERRUPT)
        end_process(asked << 24 | (uint32_t)cpu->vector << 16);
    slot->prefetch_count = 0;
    forget_kick(t);
    post(slot, asked == ASK_FAULT ? K_FAULT : K_INTERRUPTED);
    return true;
}

static void __attribute__((noreturn)) run_guest(struct thread *t, struct ucontext *uc)
{
    uint64_t *regs = (uint64_t *)&uc->uc_mcontext;
    for (;;) {
        serve(t->slot, uc, (int64_t *)&regs[AT_RAX]);
        t->cpu->told = GO_ON;
        while (!take(t, enter(t), t->cpu, regs))
            ;
    }
}

/* Where a clone begins, on its own stack in the loop. */
void kvm_begin(struct ucontext *uc, bool is_fork)
{
    uint64_t slotno = ((uint64_t)uc - REGION_BASE) / SLOT_SIZE, none = 0;
    struct thread *t = own_thread(__builtin_frame_address(0));
    t->run = 0;
    if (is_fork) {
        LOOP->lock = 0;
        LOOP->threads = 1;
        LOOP->vain = 0;
        areas_forked();
        make_vm();
        if (!make_cpu(slotno))
            end_process(__LINE__);
    }
    start_cpu(t, slotno);
    call4(__NR_rt_sigprocmask, SIG_SETMASK, &none, 0, 8);
    run_guest(t, uc);
}
