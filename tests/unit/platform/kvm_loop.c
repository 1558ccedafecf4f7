/* The loop of the platform kvm (csrc/kvm), as an ordinary program: its host calls are fakes that check each request,
 * and KVM_RUN returns with any state that a hostile ring 0 could have left. test_kvm_loop.py compiles and runs it.
 *
 *   kvm_loop fuzz COUNT SEED   forged kvm_run, records, slots, page tables: COUNT returns of KVM_RUN
 *   kvm_loop far               blocks and tables are given back, and out of them is ENOMEM
 *   kvm_loop vectors           what a program is told of each exception: vector, signal, code, address
 *   kvm_loop stopped           a stop of the process breaks off what makes its machine
 *   kvm_loop memory            KVM_CREATE_VM and KVM_RUN find no memory: how the process ends
 *
 * A violation (a host call that the stub of systrap would not be allowed, a write outside of the guest's own memory,
 * a table of the loop's own that is damaged) is printed, and ends it with status 1. The addresses are the real ones,
 * so a pointer that leads out of what the loop has is a SIGSEGV.
 */

#include "areas.c"
#include "tables.c"
#include "vm.c"
#include "orders.c"
#include "loop.c"

int printf(const char *format, ...);
int strcmp(const char *a, const char *b);
unsigned long strtoul(const char *text, char **end, int base);
void *memset(void *at, int value, unsigned long length);
void *mmap(void *at, unsigned long length, int prot, int flags, int fd, long offset);
void exit(int status) __attribute__((noreturn));
int personality(unsigned long persona);
int execv(const char *path, char *const argv[]);

char ring0_begin[1], ring0_end[1], ring0_call[1], ring0_start[1], ring0_vectors[1], ring0_iret[1];
char stub_call[1], stub_call_trap_jump[1], stub_call_saved[1], stub_call_flags[1], stub_call_enter[1], stub_leave[1], stub_leave_end[1];
char stub_again[1], stub_again_end[1], stub_stopped[1], stub_copy_begin[1], stub_copy_end[1], stub_string_begin[1], stub_string_end[1];
char stub_copy_fault[1], stub_string_fault[1], stub_swap_begin[1], stub_swap_end[1], stub_swap_fault[1];

#define SLOTNO 1
#define CPU_FD 70
#define NO_ROOM 77

static void *after[5]; /* __builtin_setjmp: where a process has ended, or an input is over */
static uint64_t state, returns_left, steps, ends, threads_let_through;
static uint64_t memory[SLOT_BLOCKS + MAX_USED]; /* host addresses of memory slots, plus 1 */
static struct thread thread;
static bool is_fuzzing, fails_memory;
static long no_memory; /* what these return then */
static uint32_t stops; /* that are to come while a machine is made */
static uint64_t counts[8]; /* how often each fake was called, to see that the run has covered them */

static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static uint64_t below(uint64_t limit)
{
    return next_random() % limit;
}

static void __attribute__((noreturn)) violation(const char *what, uint64_t a, uint64_t b, uint64_t c)
{
    printf("violation: %s: %lx %lx %lx\n", what, (long)a, (long)b, (long)c);
    exit(1);
}

static void __attribute__((noreturn)) process_ends(uint64_t why)
{
    if (!is_fuzzing)
        violation("the process has ended itself", why, LOOP->blocks_live, LOOP->tables_live);
    ends++;
    __builtin_longjmp(after, 1);
}

/* ---- forging ---- */

static uint64_t any_address(void)
{
    static const uint64_t bases[] = {0,         0x10000,         0x40000000,     0x7f0000000000, MAX_ADDRESS - 0x2000, MAX_ADDRESS,
                                     STUB_BASE, INFO_BASE,       REGION_BASE,    WINDOW_BASE,    LOOP_STACKS_BASE,     LOOP_RUNS_BASE,
                                     LOOP_DATA_BASE, RING0_BASE, TABLES_BASE,    VDSO_BASE,      END_ADDRESS,          0xffffffffff600000ULL};
    uint64_t how = below(4);
    if (how == 0)
        return next_random();
    if (how == 1)
        return bases[below(sizeof bases / sizeof bases[0])] + below(0x10000);
    if (how == 2)
        return below(12) * BLOCK + below(16) * 0x1000; /* where something is mapped now and then */
    return bases[below(sizeof bases / sizeof bases[0])] + (below(64) << 12);
}

static uint64_t any_length(void)
{
    static const uint64_t lengths[] = {0, 1, 0x1000, 0x2000, 0x200000, 0x40000000, 0x100000000ULL, 0x7fffffffffffULL, ~0ULL, ~0xfffULL};
    return below(3) ? lengths[below(10)] : below(64) << 12;
}

static void forge_op(struct op *op)
{
    static const uint16_t usual[] = {__NR_mmap, __NR_munmap, __NR_mprotect, __NR_madvise, __NR_mremap, __NR_clone, __NR_close};
    op->nr = below(3) ? usual[below(7)] : below(40) ? below(460) : next_random();
    op->args[0] = below(8) ? any_address() & ~0xfffULL : any_address();
    op->args[1] = any_length();
    op->args[2] = below(2) ? below(8) : any_length();
    op->args[3] = below(2) ? 0x32 : below(64);
    op->args[4] = below(2) ? ~0ULL : below(2) ? below(80) : any_address() & ~0xfffULL;
    op->args[5] = below(4) ? 0 : next_random();
    op->extra = below(4) ? below(8) : next_random();
    if (op->nr == __NR_ioctl && below(2)) { /* as if they were the loop's own */
        op->args[0] = below(2) ? 0 : below(2) ? 6 : CPU_FD;
        op->args[1] = below(2) ? KVM_SET_USER_MEMORY_REGION : KVM_CREATE_VM;
    }
    if (op->nr == __NR_clone) {
        op->args[0] = below(2) ? 0x50f00 : 17;
        op->args[1] = below(4) ? REGION_BASE + below(SLOT_COUNT) * SLOT_SIZE + SLOT_SIZE - 0x1000 : any_address();
    }
}

static void forge_slot(struct slot *slot)
{
    slot->reply = below(4) ? (uint32_t)(below(128) | below(4) << 16 | below(4) << 24) : (uint32_t)next_random();
    slot->state = below(8) ? ST_REPLY : (uint32_t)below(6);
    for (int i = 0; i < 4; i++)
        forge_op(&slot->ops[i]);
    for (int i = 0; i < 4; i++)
        slot->copies[i] = (struct copy){any_address(), any_length(), (uint32_t)(below(2) ? below(0x10000) : next_random())};
    slot->swap_addr = any_address();
    slot->swap_old = below(4);
    slot->swap_any = below(2);
    slot->fs_base = any_address();
    for (int i = 0; i < MAX_WAKES; i++)
        slot->wakes[i] = next_random();
    slot->bell = next_random();
    if (!below(50))
        for (uint64_t i = 0; i < sizeof *slot / 8; i++)
            if (!below(16))
                ((uint64_t *)slot)[i] = next_random();
    slot->exits[below(EXIT_REASONS)] = next_random();
}

static void forge_tables(void)
{
    uint64_t *tables = (uint64_t *)TABLES_BASE, count = LOOP->tables_used * 512ULL;
    for (uint64_t i = below(6); i; i--) {
        uint64_t value = below(2) ? next_random() : any_address();
        if (below(2))
            value = GPA_TABLES + below(LOOP->tables_used + 2) * PAGE;
        if (count)
            tables[below(count)] = value | (below(3) ? 7 : below(256));
    }
}

static long forged_run(void)
{
    static const uint8_t reasons[] = {KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_HLT, KVM_EXIT_HLT, KVM_EXIT_HLT};
    struct cpu *cpu = thread.cpu;
    struct kvm_run *run = thread.run;
    counts[0]++;
    if (no_memory)
        return no_memory;
    if (!returns_left || steps > 2000)
        __builtin_longjmp(after, 1);
    returns_left--;
    run->exit_reason = below(50) ? reasons[below(4)] : below(2) ? (uint32_t)below(48) : (uint32_t)next_random();
    run->internal.suberror = next_random();
    run->request_interrupt_window = next_random();
    run->immediate_exit = next_random();
    cpu->ask = below(40) ? 1 + (uint32_t)below(5) : (uint32_t)next_random();
    cpu->vector = below(2) ? VECTOR_PAGE_FAULT : below(8) ? below(40) : next_random();
    cpu->error = below(2) ? below(32) : next_random();
    cpu->address = any_address();
    cpu->told = next_random();
    cpu->slot = (struct slot *)any_address(); /* pointers that only ring 0 follows */
    cpu->regs = (uint64_t *)any_address();
    cpu->fp = (char *)any_address();
    cpu->stack = any_address();
    forge_slot(thread.slot);
    if (!below(8))
        forge_tables();
    if (!below(16))
        thread.is_kicked = 1; /* the loop's own: a signal has come */
    return below(12) ? 0 : below(2) ? -4 : below(8) ? -14 : -22;
}

/* ---- the host ---- */

static long set_memory(const struct kvm_userspace_memory_region *r)
{
    if (r->slot < SLOT_BLOCKS && !is_fuzzing) /* those of a new machine */
        return 0;
    if (r->slot == SLOT_RING0 && r->guest_phys_addr == GPA_RING0 && r->userspace_addr == RING0_BASE && r->memory_size == RING0_SIZE)
        return 0;
    uint64_t place = r->slot - SLOT_BLOCKS;
    if (r->slot < SLOT_BLOCKS || place >= MAX_USED || r->flags || r->guest_phys_addr != GPA_BLOCKS + place * BLOCK ||
        r->userspace_addr % BLOCK || r->userspace_addr >= MAX_ADDRESS || (r->memory_size && r->memory_size != BLOCK))
        violation("memory slot", r->slot, r->userspace_addr, r->memory_size);
    if (!memory[r->slot] != !!r->memory_size || (!r->memory_size && memory[r->slot] != r->userspace_addr + 1))
        violation("memory slot that is, or is not, there", r->slot, r->userspace_addr, r->memory_size);
    if (fails_memory && !below(8))
        return -12;
    for (uint32_t i = SLOT_BLOCKS; is_fuzzing && r->memory_size && i < SLOT_BLOCKS + 64; i++)
        if (memory[i] == r->userspace_addr + 1)
            violation("two memory slots for a block", i, r->slot, r->userspace_addr);
    memory[r->slot] = r->memory_size ? r->userspace_addr + 1 : 0;
    counts[r->memory_size ? 1 : 2]++;
    return 0;
}

static long fake_ioctl(uint64_t fd, uint64_t command, void *arg)
{
    if (fd == VM_FD && command == KVM_SET_USER_MEMORY_REGION)
        return set_memory(arg);
    if (fd == KVM_FD && command == KVM_CREATE_VM && !is_fuzzing)
        return no_memory ? no_memory : stops && stops-- ? -4 : VM_FD;
    if (fd == VM_FD && command == KVM_ENABLE_CAP && !is_fuzzing)
        return 0;
    if (fd == VM_FD && command == KVM_CREATE_VCPU && (uint64_t)arg < SLOT_COUNT) {
        if (is_fuzzing && !LOOP->lock)
            violation("a virtual CPU that a fork could inherit", (uint64_t)arg, 0, 0);
        if (!below(8))
            return -24;
        if (++counts[3] > MAX_VAIN + threads_let_through)
            violation("virtual CPUs in vain", counts[3], threads_let_through, 0);
        return 1;
    }
    if (fd == (uint64_t)thread.fd && command == KVM_RUN)
        return forged_run();
    if (fd == (uint64_t)thread.fd && command == KVM_INTERRUPT && *(uint32_t *)arg - VECTOR_INTERRUPT <= 1)
        return 0;
    if (fd > CPU_FD)
        for (const uint32_t *c = (const uint32_t[]){KVM_SET_CPUID2, KVM_SET_SREGS, KVM_SET_XCRS, KVM_SET_DEVICE_ATTR, KVM_ENABLE_CAP, 0}; *c; c++)
            if (*c == command)
                return 0;
    if (fd > CPU_FD && command == KVM_SET_MSRS)
        return 5;
    violation("ioctl", fd, command, (uint64_t)arg);
}

static bool is_known(uint64_t addr, uint64_t length)
{
    return lies_in(addr, length, INFO_BASE, INFO_SIZE) || addr == (uint64_t)&LOOP->lock;
}

static bool is_run_page(uint64_t addr, uint64_t length)
{
    return length == 1 << LOOP_SHIFT && lies_in(addr, length, LOOP_RUNS_BASE, LOOP_RUNS_SIZE);
}

long stub_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
    uint64_t start = a, length = b;
    (void)f;
    if (++steps > 100000 && is_fuzzing)
        __builtin_longjmp(after, 1);
    if (nr >= END_CALL && nr <= END_CALL + END_REASONS) /* end_process */
        process_ends(nr - END_CALL);
    switch (nr) {
    case __NR_ioctl:
        return fake_ioctl(a, b, (void *)c);
    case __NR_exit_group:
        if (no_memory)
            __builtin_longjmp(after, 1);
        process_ends(a);
    case __NR_futex:
        if (!is_known(start, 4) || (b != FUTEX_WAIT && b != FUTEX_WAKE))
            violation("futex", a, b, c);
        if (b == FUTEX_WAIT && start == (uint64_t)&LOOP->lock)
            violation("the lock is held", a, b, c);
        if (b == FUTEX_WAIT && is_fuzzing)
            forge_slot(thread.slot);
        return below(4) ? 0 : -4;
    case __NR_sched_yield:
        if ((uint64_t)a != BELL_ARG0 || b != BELL_ARG1)
            violation("bell", a, b, c);
        counts[4]++;
        return 0;
    case __NR_rt_sigprocmask:
        return 0;
    case __NR_fcntl:
        if (a != 1 || b != F_DUPFD_CLOEXEC || c != FIRST_CPU_FD)
            violation("fcntl", a, b, c);
        return CPU_FD + 1 + (long)below(900);
    case __NR_close:
        if (a != 1 && a <= CPU_FD && (a < FIRST_KEPT || a > LAST_FD))
            violation("close", a, b, c);
        return 0;
    case __NR_exit:
        return below(2) ? -1 : 0;
    case __NR_mmap:
        if (e > CPU_FD && e < CPU_FD + 1000 && is_run_page(start, length) && c == 3 && d == 0x11)
            return a;
        if (e >= FIRST_CPU_FD && is_run_page(start, length))
            violation("mapping of kvm_run", a, b, e);
        if (start >= MAX_ADDRESS && !lies_in(start, length, WINDOW_BASE, WINDOWS * WINDOW_SIZE))
            violation("mmap", a, b, c);
        break;
    case __NR_madvise:
        if (is_run_page(start, length) && c == MADV_DONTFORK)
            return 0;
        /* fall through */
    case __NR_mprotect:
    case __NR_mremap:
        if (start >= MAX_ADDRESS)
            violation("change", nr, a, b);
        break;
    case __NR_munmap:
        if (start >= MAX_ADDRESS && (start != MAX_ADDRESS || length != PAGE))
            violation("munmap", a, b, c);
        break;
    default:
        violation("call", nr, a, b);
    }
    counts[5]++;
    if (start < MAX_ADDRESS && length > MAX_ADDRESS - start)
        violation("beyond the end", nr, a, b);
    return !is_fuzzing || below(4) ? 0 : -(long)below(40) - 1;
}

long stub_copy(void *to, const void *from, uint64_t length)
{
    bool is_probe = length == 1 && (uint64_t)from < MAX_ADDRESS;
    counts[6]++;
    if (!is_probe && ((uint64_t)to >= MAX_ADDRESS || length > MAX_ADDRESS - (uint64_t)to))
        violation("copy", (uint64_t)to, (uint64_t)from, length);
    if (!is_probe && !lies_in((uint64_t)from, length, REGION_BASE, REGION_SIZE) &&
        !lies_in((uint64_t)from, length, WINDOW_BASE, WINDOWS * WINDOW_SIZE))
        violation("copy from", (uint64_t)to, (uint64_t)from, length);
    return !is_fuzzing || below(3) ? 0 : length;
}

long stub_swap(volatile void *word, volatile uint32_t *old, uint32_t new)
{
    (void)new;
    if ((uint64_t)word > MAX_ADDRESS - 4)
        violation("swap", (uint64_t)word, 0, 0);
    *old = below(3);
    return is_fuzzing && !below(3);
}

long stub_clone(const struct op *op, void *uc)
{
    (void)uc;
    if (op->nr != __NR_clone)
        violation("clone", op->nr, 0, 0);
    bool is_thread = op->args[0] & CLONE_VM, is_let = !below(64); /* the sentry has ordered it */
    threads_let_through += is_thread && is_let;
    return is_let ? 1000 : -1;
}

long stub_copy_string(void *to, const void *from, uint64_t length)
{
    (void)to, (void)from, (void)length;
    return -14;
}

void prefetch(volatile struct slot *slot, uint64_t nr, const int64_t *args)
{
    (void)slot, (void)nr, (void)args;
}

/* ---- is the loop's own table whole? ---- */

static uint32_t chain(uint32_t table, uint8_t *seen)
{
    uint32_t count = 0;
    for (; table; table = LOOP->next_table[table]) {
        if (table >= LOOP->tables_used || seen[table]++)
            violation("a table twice, or none", table, LOOP->tables_used, 0);
        count++;
    }
    return count;
}

static void check(void)
{
    static uint8_t seen[TABLES];
    uint32_t live = 0, given_back;
    for (uint32_t i = 0; i < LOOP->areas_used; i++) {
        const struct area *a = &LOOP->areas[i];
        if (a->start >= a->end || a->end > MAX_ADDRESS || (a->start | a->end) % PAGE || (i && a->start < a[-1].end))
            violation("areas", i, a->start, a->end);
    }
    memset(seen, 0, LOOP->tables_used);
    for (uint32_t i = 0; i < LOOP->blocks_used; i++) {
        uint64_t block = LOOP->used[i];
        chain(LOOP->first_table[i], seen);
        if (block == NO_BLOCK && (LOOP->first_table[i] || memory[SLOT_BLOCKS + i]))
            violation("what has no block", i, LOOP->first_table[i], memory[SLOT_BLOCKS + i]);
        if (block != NO_BLOCK && (LOOP->places[block] != i + 1 || memory[SLOT_BLOCKS + i] != block * BLOCK + 1))
            violation("place", i, block, memory[SLOT_BLOCKS + i]);
        live += block != NO_BLOCK;
    }
    given_back = chain(LOOP->tables_free, seen);
    if (live != LOOP->blocks_live || LOOP->tables_live + given_back != LOOP->tables_used || LOOP->tables_used > TABLES)
        violation("figures", live, LOOP->tables_live, given_back);
    if (LOOP->vm != VM_FD || LOOP->regs_offset != 0x1d000 || LOOP->lock)
        violation("the loop's own", LOOP->vm, LOOP->regs_offset, LOOP->lock);
}

/* ---- */

static void begin_process(void)
{
    struct slot *slot = (struct slot *)(REGION_BASE + SLOTNO * SLOT_SIZE);
    for (uint32_t i = 0; i < LOOP->blocks_used; i++)
        if (LOOP->used[i] != NO_BLOCK)
            LOOP->places[LOOP->used[i]] = 0;
    memset((void *)TABLES_BASE, 0, LOOP->tables_used * PAGE);
    memset(LOOP->first_table, 0, sizeof LOOP->first_table);
    memset(LOOP->cpus, 0, sizeof LOOP->cpus);
    memset(memory, 0, sizeof memory);
    LOOP->areas_used = LOOP->blocks_used = LOOP->blocks_live = LOOP->sweep_at = LOOP->tables_live = LOOP->tables_free = 0;
    LOOP->lock = LOOP->vain = LOOP->tables_used = 0;
    LOOP->threads = 1;
    LOOP->vm = VM_FD;
    LOOP->regs_offset = 0x1d000;
    LOOP->fp_offset = 0x1d200;
    LOOP->blocks_max = MAX_USED;
    LOOP->cpus[SLOTNO] = CPU_FD;
    counts[3] = threads_let_through = 0;
    thread = (struct thread){(struct cpu *)RING0_BASE, (struct kvm_run *)(LOOP_RUNS_BASE + (SLOTNO << LOOP_SHIFT)), slot, CPU_FD, 0, 0};
    map_fixed(REGION_BASE, GPA_REGION, 1 << 21, PROT_READ | PROT_WRITE, false);
}

static void fuzz(uint64_t count)
{
    struct ucontext *uc = (struct ucontext *)(REGION_BASE + SLOTNO * SLOT_SIZE + 0x1d000 - offsetof(struct ucontext, uc_mcontext));
    is_fuzzing = fails_memory = true;
    returns_left = count;
    while (returns_left) {
        begin_process();
        LOOP->blocks_max = 1 + below(10);
        for (int i = 0; i < 40 && returns_left; i++) {
            steps = 0;
            if (!__builtin_setjmp(after))
                run_guest(&thread, uc);
            if (LOOP->lock) /* the process has ended in the middle of a change */
                break;
            check();
        }
    }
    printf("returns %ld, ended %ld, blocks %ld and back %ld, bells %ld, calls %ld, copies %ld\n", (long)counts[0], (long)ends,
           (long)counts[1], (long)counts[2], (long)counts[4], (long)counts[5], (long)counts[6]);
}

static long map_at(uint64_t start, uint64_t length)
{
    struct op op = {__NR_mmap, {start, length, 3, 0x32, ~0ULL, 0}, 3};
    return carry_out(&op, 0);
}

static long unmap(uint64_t start, uint64_t length)
{
    struct op op = {__NR_munmap, {start, length}, 0};
    return carry_out(&op, 0);
}

static uint32_t touch(uint64_t addr)
{
    int32_t code;
    return page_fault(addr, 6, &code);
}

static void expect(const char *what, uint64_t found, uint64_t wanted)
{
    if (found != wanted)
        violation(what, found, wanted, 0);
    check();
}

static void far_apart(void)
{
    uint64_t most_blocks = 0, most_tables = 0;
    begin_process();
    for (uint64_t i = 1; i <= 20000; i++) {
        if (map_at(i * BLOCK, PAGE) || touch(i * BLOCK) || unmap(i * BLOCK, PAGE))
            violation("a block", i, LOOP->blocks_live, LOOP->tables_live);
        most_blocks = LOOP->blocks_live > most_blocks ? LOOP->blocks_live : most_blocks;
        most_tables = LOOP->tables_live > most_tables ? LOOP->tables_live : most_tables;
    }
    check();
    printf("20000 blocks one after the other: at most %ld, and %ld tables\n", (long)most_blocks, (long)most_tables);
    expect("too many blocks", most_blocks <= MIN_SWEEP, 1);
    expect("too many tables", most_tables < 300, 1);

    begin_process(); /* all at once: above the limit ENOMEM, and there is room again after some have ended */
    for (uint64_t i = 1; i <= MAX_USED; i++)
        if (map_at(i * BLOCK, PAGE) || touch(i * BLOCK))
            violation("a block", i, LOOP->blocks_live, LOOP->tables_live);
    expect("one too many", map_at((MAX_USED + 1) * BLOCK, PAGE), (uint64_t)-12);
    expect("in a block that has memory", map_at(7 * BLOCK + (1 << 21), PAGE), 0);
    expect("unmapped", unmap(3 * BLOCK, PAGE), 0);
    expect("room again", map_at((MAX_USED + 1) * BLOCK, PAGE), 0);
    expect("touched", touch((MAX_USED + 1) * BLOCK), 0);

    begin_process(); /* tables: pages 2 MiB apart, each of which needs one; every other stays */
    uint64_t count = 0, addr;
    for (addr = BLOCK; !map_at(addr, PAGE) && !touch(addr); addr += 2 * LARGE_SIZE)
        count++;
    printf("%ld pages of tables of their own\n", (long)count);
    expect("too few tables", count > TABLES - 1024, 1);
    expect("out of tables", map_at(addr, PAGE), (uint64_t)-12);
    for (uint64_t i = 0; i < 1000; i++)
        unmap(BLOCK + i * 4 * LARGE_SIZE, PAGE);
    for (uint64_t i = 0; i < 900; i++, addr += 2 * LARGE_SIZE)
        if (map_at(addr, PAGE) || touch(addr))
            violation("tables again", i, LOOP->tables_live, addr);
    check();
    printf("all is well\n");
}

/* Those of hardware but page faults, at address 0x1234. */
static void vectors(void)
{
    uint64_t regs[AT_CR2 + 1] = {[AT_RIP] = 0x1234};
    struct cpu *cpu = (struct cpu *)RING0_BASE;
    begin_process();
    for (uint64_t vector = 0; vector < 32; vector++) {
        cpu->vector = vector;
        cpu->error = cpu->address = 0;
        if (vector != VECTOR_PAGE_FAULT && fault(&thread, cpu, regs))
            printf("%d %d %d %lx\n", (int)vector, (int)thread.slot->signo, thread.slot->code, (long)thread.slot->addr);
    }
}

/* mm_take_all_locks of the host's kernel gives up on a signal, a stop of the process among them. */
static void stopped(void)
{
    begin_process();
    LOOP->vm = -1;
    LOOP->cpus[SLOTNO] = 0;
    stops = 3;
    make_vm();
    expect("stops that did not come", stops, 0);
    printf("machine %d\n", LOOP->vm);
}

/* It ends without a signal, and not as if ring 0 had done something. */
static void without_memory(void)
{
    struct ucontext *uc = (struct ucontext *)(REGION_BASE + SLOTNO * SLOT_SIZE + 0x1d000 - offsetof(struct ucontext, uc_mcontext));
    begin_process();
    no_memory = -12; /* ENOMEM */
    thread.slot->state = ST_REPLY;
    if (!__builtin_setjmp(after))
        run_guest(&thread, uc);
    printf("KVM_RUN: exit_group\n");
    LOOP->vm = -1;
    LOOP->cpus[SLOTNO] = 0;
    if (!__builtin_setjmp(after))
        make_vm();
    printf("KVM_CREATE_VM: exit_group\n");
}

static void have(uint64_t at, uint64_t length)
{
    if (mmap((void *)at, length, 3, 0x104022, -1, 0) != (void *)at) /* private, anonymous, without reserve, at a free place */
        exit(NO_ROOM);
}

int main(int count, char **words)
{
    if (!(personality(0xffffffff) & 0x40000)) { /* ADDR_NO_RANDOMIZE: our places must be free */
        if (personality(0x40000) >= 0)
            execv("/proc/self/exe", words);
    }
    have(INFO_BASE, INFO_SIZE);
    have(REGION_BASE, 4 * SLOT_SIZE);
    have(LOOP_BASE, LOOP_SIZE);
    ((struct info *)INFO_BASE)->asleep = 1;
    state = count > 3 ? strtoul(words[3], 0, 10) * 2654435761 + 1 : 1;
    if (count > 2 && !strcmp(words[1], "fuzz"))
        fuzz(strtoul(words[2], 0, 10));
    else if (count > 1 && !strcmp(words[1], "vectors"))
        vectors();
    else if (count > 1 && !strcmp(words[1], "stopped"))
        stopped();
    else if (count > 1 && !strcmp(words[1], "memory"))
        without_memory();
    else
        far_apart();
    return 0;
}
