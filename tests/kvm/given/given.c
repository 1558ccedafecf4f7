/* given NAME...: attacks from ring 0, each by a process of its own. Its requests and its end must harm no other
 * process: a neighbour, which exists from the beginning, is asked after each. Lines for test_given.py.
 */
#include "given.h"

/* ---- exceptions of the attacker's own ---- */

static volatile uint64_t recover_ip, recover_sp;
static uint64_t idt[512] __attribute__((aligned(4096)));

__attribute__((naked)) static void on_exception(void)
{
    __asm__ volatile("mov %0, %%rsp\n\tmov $1, %%eax\n\tjmp *%1" ::"m"(recover_sp), "m"(recover_ip));
}

static void load_idt(uint16_t limit)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) where = {limit, (uint64_t)idt};
    uint64_t at = (uint64_t)on_exception;
    for (int i = 0; i < 256; i++) {
        idt[2 * i] = (at & 0xffff) | 0x10ULL << 16 | 0x8e00ULL << 32 | (at >> 16 & 0xffff) << 48;
        idt[2 * i + 1] = at >> 32;
    }
    __asm__ volatile("lidt %0" ::"m"(where));
}

/* Whether an instruction was refused. */
#define REFUSED(text, ...)                                                                                             \
    ({                                                                                                                 \
        uint32_t was_refused;                                                                                          \
        __asm__ volatile("lea 1f(%%rip), %%rax\n\tmov %%rax, recover_ip(%%rip)\n\tmov %%rsp, recover_sp(%%rip)\n\t"    \
                         "mov %1, %%rax\n\t" text "\n\txor %%eax, %%eax\n\t1:"                       \
                         : "=&a"(was_refused)                                                                          \
                         : __VA_ARGS__                                                                                 \
                         : "rcx", "rdx", "rbx", "memory", "cc");                                                       \
        was_refused;                                                                                                   \
    })

static int found; /* the result of an attack in ring 0 */

/* ---- all of guest-physical memory ---- */

/* Tables of the attacker's own, in a slot that no thread uses, then an entry for them in the root of those in force. */
static void see_all(void (*set_entry)(uint64_t, volatile uint64_t *, uint64_t))
{
    uint64_t at = REGION_SIZE - 16 * PAGE, *tables = (uint64_t *)(REGION_BASE + at), gpa = GPA_REGION + at, text = (uint64_t)set_entry;
    memset(tables, 0, 16 * PAGE); /* 0 root; 1 to 5 the window; 6 to 8 for set_entry */
    uint64_t first = text & ~(PAGE - 1), shift = RING0_TEXT;
    tables[WINDOW >> 39 & 511] = (gpa + PAGE) | 7;
    for (int i = 0; i < 4; i++) {
        tables[512 + i] = (gpa + (2 + i) * PAGE) | 7;
        for (int j = 0; j < 512; j++)
            tables[(2 + i) * 512 + j] = ((uint64_t)i << 30 | (uint64_t)j << 21) | 0x87;
    }
    tables[text >> 39 & 511] = (gpa + 6 * PAGE) | 7;
    tables[6 * 512 + (text >> 30 & 511)] = (gpa + 7 * PAGE) | 7;
    tables[7 * 512 + (text >> 21 & 511)] = (gpa + 8 * PAGE) | 7;
    for (int i = 0; i < 2; i++)
        tables[8 * 512 + ((text >> 12) & 511) + i] = (GPA_TEXT + first - shift + i * PAGE) | 1;
    set_entry(gpa, (uint64_t *)(WINDOW + GPA_TABLES) + (WINDOW >> 39 & 511), (gpa + PAGE) | 7);
}

static volatile uint64_t *physical(uint64_t gpa)
{
    return (uint64_t *)(WINDOW + gpa);
}

#define ATTACK(name) static void name(void *trap, struct cpu *cpu, void (*set_entry)(uint64_t, volatile uint64_t *, uint64_t))
#define UNUSED (void)trap, (void)cpu, (void)set_entry

ATTACK(nothing)
{
    UNUSED;
    __asm__ volatile("mov %%cs, %0" : "=r"(found));
}

ATTACK(window)
{
    UNUSED;
    see_all(set_entry);
    found = (*physical(GPA_TABLES + 8 * (WINDOW >> 39 & 511)) & 7) == 7;
}

/* ---- ends of the machine ---- */

ATTACK(triple_fault)
{
    UNUSED;
    load_idt(0);
    __asm__ volatile("ud2");
}

ATTACK(halt_for_nothing)
{
    UNUSED;
    ask(cpu, 0);
}

ATTACK(halt_for_anything)
{
    UNUSED;
    ask(cpu, 0xdeadbeef);
}

ATTACK(spin)
{
    UNUSED;
    for (;;)
        __asm__ volatile("pause");
}

ATTACK(spin_on_halts)
{
    UNUSED;
    for (;;)
        reply(cpu, 0);
}

ATTACK(spin_on_faults) /* each has the loop look for the page */
{
    UNUSED;
    for (;;) {
        cpu->address = next_random();
        cpu->error = next_random() & 31;
        ask(cpu, ASK_PAGE);
    }
}

ATTACK(spin_on_cpuid)
{
    UNUSED;
    for (;;)
        __asm__ volatile("cpuid" ::"a"(0), "c"(0) : "rbx", "rdx");
}

ATTACK(bells)
{
    UNUSED;
    for (int i = 0; i < 300; i++) {
        set(cpu->slot, 4, 0);
        set(cpu->slot, 0, REPLY);
        ask(cpu, ASK_BELL);
    }
}

/* ---- ports, registers, virtualisation ---- */

ATTACK(port_out)
{
    UNUSED;
    for (int i = 0; i < 65536; i++)
        __asm__ volatile("outb %%al, %%dx" ::"a"(i), "d"(i));
}

ATTACK(port_in)
{
    UNUSED;
    __asm__ volatile("inb %%dx, %%al" ::"a"(0), "d"(0x60));
}

ATTACK(port_string)
{
    UNUSED;
    static char buffer[4096];
    char *at = buffer;
    uint64_t count = 4096;
    __asm__ volatile("rep insb" : "+D"(at), "+c"(count) : "d"(0x1f0) : "memory");
}

ATTACK(task_priority)
{
    UNUSED;
    for (uint64_t i = 0; i < 16; i++)
        __asm__ volatile("mov %0, %%cr8" ::"r"(i));
}

ATTACK(registers) /* of machines: those of KVM's own, of Hyper-V's, and at random */
{
    UNUSED;
    static const uint32_t bases[] = {0, 0x10, 0x1b, 0x3a, 0x174, 0x180, 0x200, 0x277, 0x2ff, 0x400, 0x600, 0x800, 0x830, 0x40000000, 0x4b564d00,
                                     0xc0000080, 0xc0000100, 0xc0010000, 0xc0010010, 0xc0010100, 0xc0010110, 0xc0010200};
    load_idt(4095);
    found = 0;
    for (uint32_t i = 0; i < sizeof bases / sizeof *bases; i++)
        for (uint32_t j = 0; j < 16; j++) {
            uint64_t number = bases[i] + j, value = next_random();
            if (number == 0xc0000080 || (number >= 0xc0000100 && number <= 0xc0000102) || number == 0x1b)
                continue; /* EFER, and what finds our own records */
            found += REFUSED("mov %%rax, %%rcx\n\trdmsr", "r"(number));
            found += REFUSED("mov %%rax, %%rcx\n\tmov %2, %%rax\n\tmov %2, %%rdx\n\tshr $32, %%rdx\n\twrmsr", "r"(number), "r"(value));
        }
    found = found > 0;
}

ATTACK(kvms_registers) /* must not be there: 1 */
{
    UNUSED;
    static const uint32_t numbers[] = {0x11, 0x12, 0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04, 0x4b564d05, 0x40000000};
    load_idt(4095);
    found = 1;
    for (uint32_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        found &= REFUSED("mov %%rax, %%rcx\n\tmov $0x1001, %%eax\n\txor %%edx, %%edx\n\twrmsr", "r"((uint64_t)numbers[i]));
}

ATTACK(virtualisation) /* must not be there: 127 */
{
    UNUSED;
    uint32_t a, b, c, d;
    load_idt(4095);
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0x80000001), "c"(0));
    found = !(c & 4);
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(1), "c"(0));
    found |= !(c & 32) << 1;
    found |= REFUSED("mov $0xc0000080, %%ecx\n\trdmsr\n\tor $0x1000, %%eax\n\twrmsr", "r"(0ULL)) << 2; /* EFER.SVME */
    found |= REFUSED("mov %%cr4, %%rax\n\tor $0x2000, %%rax\n\tmov %%rax, %%cr4", "r"(0ULL)) << 3;     /* CR4.VMXE */
    found |= REFUSED("vmrun", "r"(GPA_REGION)) << 4;
    found |= REFUSED("vmload", "r"(GPA_REGION)) << 5;
    found |= REFUSED("vmsave", "r"(GPA_REGION)) << 6;
}

ATTACK(counters) /* must not be there: 1 */
{
    UNUSED;
    load_idt(4095);
    found = REFUSED("mov $0xc0010200, %%ecx\n\tmov $0x430076, %%eax\n\txor %%edx, %%edx\n\twrmsr\n\trdmsr\n\ttest %%eax, %%eax\n\tjnz 2f\n\tud2\n2:", "r"(0ULL));
    found &= REFUSED("mov $1000, %%ecx\n\trdpmc", "r"(0ULL));
}

ATTACK(control_registers)
{
    UNUSED;
    load_idt(4095);
    found = 0;
    for (int i = 0; i < 40; i++) {
        uint64_t value = i < 20 ? 1ULL << (3 * i) : next_random();
        found += REFUSED("mov %%cr0, %%rbx\n\txor %%rbx, %%rax\n\tmov %%rax, %%cr0\n\tmov %%rbx, %%cr0", "r"(value & ~0x80000001ULL));
        found += REFUSED("mov %%cr4, %%rbx\n\txor %%rbx, %%rax\n\tmov %%rax, %%cr4\n\tmov %%rbx, %%cr4", "r"(value & ~0x301020ULL));
        found += REFUSED("xor %%ecx, %%ecx\n\tmov %%rax, %%rdx\n\tshr $32, %%rdx\n\txsetbv", "r"(value & ~7ULL));
    }
    found = found > 0;
}

ATTACK(hypercalls)
{
    UNUSED;
    load_idt(4095);
    for (uint64_t i = 0; i < 40; i++)
        REFUSED("mov $1, %%ebx\n\tmov $1, %%ecx\n\tvmmcall", "r"(i));
    found = 1;
}

/* ---- memory ---- */

ATTACK(read_only_text)
{
    UNUSED;
    see_all(set_entry);
    *physical(GPA_TEXT) = 0;
}

ATTACK(read_only_info)
{
    UNUSED;
    see_all(set_entry);
    *physical(GPA_INFO) = 1;
}

ATTACK(read_only_vdso)
{
    UNUSED;
    see_all(set_entry);
    *physical(GPA_VDSO) = 1;
}

ATTACK(nowhere_read)
{
    UNUSED;
    see_all(set_entry);
    found = *physical(0x70000000);
}

ATTACK(nowhere_write)
{
    UNUSED;
    see_all(set_entry);
    *physical(0x70000000) = 1;
}

ATTACK(nowhere_execute)
{
    UNUSED;
    see_all(set_entry);
    ((void (*)(void))physical(0x70000000))();
}

ATTACK(nowhere_stack)
{
    UNUSED;
    see_all(set_entry);
    __asm__ volatile("mov %0, %%rsp\n\tpush %%rax\n\tcall *%%rax" ::"r"(physical(0x70001000)));
}

ATTACK(nowhere_idt)
{
    UNUSED;
    see_all(set_entry);
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) where = {4095, (uint64_t)physical(0x70000000)};
    __asm__ volatile("lidt %0\n\tud2" ::"m"(where));
}

ATTACK(spin_without_tables)
{
    UNUSED;
    __asm__ volatile("mov %0, %%cr3" ::"r"(0x70000000ULL));
}

ATTACK(local_apic)
{
    UNUSED;
    see_all(set_entry);
    *physical(0xfee00300) = 0xc4500;
}

#define EMULATED(name, text)                                                                                           \
    ATTACK(name)                                                                                                       \
    {                                                                                                                  \
        UNUSED;                                                                                                        \
        see_all(set_entry);                                                                                            \
        __asm__ volatile(text ::"D"(physical(0x70000000)), "S"(physical(0x70001000)), "c"(64ULL), "a"(1ULL), "d"(0ULL) : "rbx", "memory", "cc"); \
    }

EMULATED(emulate_movs, "rep movsq")
EMULATED(emulate_cmpxchg, "lock cmpxchg16b (%%rdi)")
EMULATED(emulate_xadd, "lock xadd %%rax, (%%rdi)")
EMULATED(emulate_fxsave, "fxsave64 (%%rdi)")
EMULATED(emulate_xsave, "xsave64 (%%rdi)")
EMULATED(emulate_vector, "movdqu %%xmm0, (%%rdi)")
EMULATED(emulate_far_call, ".byte 0x48, 0xff, 0x1f")
EMULATED(emulate_segment, "mov (%%rdi), %%ds")
EMULATED(emulate_table, "lgdt (%%rdi)")
EMULATED(emulate_split, "mov %%rax, -4(%%rdi)")
EMULATED(emulate_pop, "popq (%%rdi)")
EMULATED(emulate_crossing, "mov %%rax, 4092(%%rdi)")

ATTACK(tables_elsewhere) /* each entry of ours leads out of the tables; then the loop follows them */
{
    UNUSED;
    see_all(set_entry);
    static const uint64_t places[] = {0, 0x1000, 0x7ffe0000, 0xfff00000, 0x0000fffffffff000, 0x00007fffb0000000 - TABLES_BASE + GPA_TABLES, 0x100000};
    for (uint64_t i = 0; i < 64 * 512; i++) {
        volatile uint64_t *entry = physical(GPA_TABLES) + i;
        if (i < 512 && i >= 255)
            continue; /* this window, and what is ours */
        if (*entry & 1)
            *entry = (places[i % 7] & 0x0000fffffffff000) | 0x67;
    }
}

ATTACK(tables_in_circles)
{
    UNUSED;
    see_all(set_entry);
    for (uint64_t i = 512; i < 64 * 512; i++)
        physical(GPA_TABLES)[i] = (GPA_TABLES + (next_random() % 64) * PAGE) | 0x67;
}

ATTACK(tables_at_random)
{
    UNUSED;
    see_all(set_entry);
    for (uint64_t i = 0; i < 256 * 512; i++)
        if (i < 128 || i >= 512)
            physical(GPA_TABLES)[i] = next_random();
}

/* ---- the loop: forged records and replies ---- */

ATTACK(forged_everything)
{
    UNUSED;
    volatile char *slot = cpu->slot;
    for (int i = 0; i < 300; i++) {
        for (int j = 0; j < 16; j++) {
            uint64_t value = next_random();
            value = value & 1 ? value : value & 2 ? LOOP_BASE + (value >> 8 & 0x3ffffff) : value >> (value >> 8 & 63);
            set_long(slot, (int)(next_random() % 512) * 8, value);
        }
        cpu->vector = next_random() % 300;
        cpu->error = next_random() & 63;
        cpu->address = next_random() & 1 ? next_random() : LOOP_BASE + (next_random() & 0xfffffff);
        set(slot, 4, next_random() & 0x0303003f);
        set(slot, 0, REPLY);
        ask(cpu, 1 + next_random() % 5);
    }
}

static void forge_copies(struct cpu *cpu, uint64_t to, uint32_t length, uint32_t offset)
{
    set_long(cpu->slot, 0x90, to);
    set(cpu->slot, 0x98, length);
    set(cpu->slot, 0x9c, offset);
    reply(cpu, 1 << 24 | 4);
}

ATTACK(copies_into_the_loop) /* its stacks, its page of KVM's, its data, its text */
{
    UNUSED;
    static const uint64_t places[] = {LOOP_STACKS_BASE, LOOP_STACKS_BASE + 0x3000, LOOP_RUNS_BASE, LOOP_DATA_BASE, TABLES_BASE, STUB_BASE, MAX_ADDRESS - 1};
    memset((void *)(cpu->slot + 0x1000), 0xff, 0x1000);
    for (int i = 0; i < 7; i++)
        forge_copies(cpu, places[i], 0x1000, 0);
    found = 1;
}

ATTACK(copies_out_of_the_loop)
{
    UNUSED;
    static char buffer[8192];
    memset(buffer, 1, sizeof buffer);
    forge_copies(cpu, (uint64_t)buffer, 8192, (uint32_t)(0x7fffffff)); /* behind the region */
    forge_copies(cpu, (uint64_t)buffer, 8192, 0x80000000u | 0x7fffffff);
    forge_copies(cpu, (uint64_t)buffer, 0xffffffff, 0);
    found = buffer[0] == 1 || buffer[0] == 0;
}

ATTACK(swaps_in_the_loop)
{
    UNUSED;
    for (uint64_t at = 0; at < 0x1000; at += 4) {
        set_long(cpu->slot, 0x540, (at & 4 ? LOOP_DATA_BASE : LOOP_STACKS_BASE + 0x4000 - 0x1000) + at);
        set(cpu->slot, 0x54c, 1);
        set(cpu->slot, 0x558, 0xffffffff);
        reply(cpu, 64);
    }
    found = 1;
}

#define FORGED(name, ...)                                                                                              \
    ATTACK(name)                                                                                                       \
    {                                                                                                                  \
        UNUSED;                                                                                                        \
        order(cpu, __VA_ARGS__);                                                                                       \
    }

FORGED(order_machine, SYS_ioctl, 6, 0xae01, 0, 0, 0, 0)
FORGED(order_memory, SYS_ioctl, 0, 0x4020ae46, REGION_BASE, 0, 0, 0)
FORGED(order_cpu, SYS_ioctl, 0, 0xae41, 700, 0, 0, 0)
FORGED(order_kvm_run, SYS_mmap, LOOP_RUNS_BASE, 1 << 14, 3, 0x11, 64, 0)
FORGED(order_duplicate, SYS_fcntl, 6, 1030, 64, 0, 0, 0)
FORGED(order_mask, SYS_rt_sigprocmask, 2, REGION_BASE, 0, 8, 0, 0)
FORGED(order_exit, SYS_exit_group, 0, 0, 0, 0, 0, 0)
FORGED(order_socket, SYS_socket, 1, 1, 0, 0, 0, 0)
FORGED(order_loop_unmapped, SYS_munmap, LOOP_BASE, LOOP_SIZE, 0, 0, 0, 0)
FORGED(order_everything_unmapped, SYS_munmap, 0x10000, 0x7ffffffe0000, 0, 0, 0, 0)
FORGED(order_close, SYS_close, 6, 0, 0, 0, 0, 0)
FORGED(order_return, SYS_rt_sigreturn, 0, 0, 0, 0, 0, 0)

ATTACK(order_threads) /* that the sentry has not ordered: few virtual CPUs are made in vain */
{
    UNUSED;
    for (uint64_t i = 2; i < 200; i++) {
        order(cpu, SYS_clone, 0x50f00, REGION_BASE + (i + 1) * 0x20000 - 4096, 0, 0, 0, 0);
        set(cpu->slot, 0, REPLY);
    }
}

ATTACK(every_block) /* the loop is asked for memory everywhere */
{
    UNUSED;
    for (uint64_t at = 0; at < MAX_ADDRESS; at += 1ULL << 36) {
        cpu->address = at;
        cpu->error = 6;
        ask(cpu, ASK_PAGE);
    }
    found = 1;
}

#define NAMED(name) {#name, name}
static const struct {
    const char *name;
    attack *run;
} attacks[] = {
    NAMED(nothing), NAMED(window), NAMED(triple_fault), NAMED(halt_for_nothing), NAMED(halt_for_anything), NAMED(bells),
    NAMED(port_out), NAMED(port_in), NAMED(port_string), NAMED(task_priority), NAMED(registers), NAMED(kvms_registers),
    NAMED(virtualisation), NAMED(counters), NAMED(control_registers), NAMED(hypercalls), NAMED(read_only_text), NAMED(read_only_info),
    NAMED(read_only_vdso), NAMED(nowhere_read), NAMED(nowhere_write), NAMED(nowhere_execute), NAMED(nowhere_stack), NAMED(nowhere_idt),
    NAMED(spin_without_tables), NAMED(local_apic), NAMED(emulate_movs), NAMED(emulate_cmpxchg), NAMED(emulate_xadd), NAMED(emulate_fxsave),
    NAMED(emulate_xsave), NAMED(emulate_vector), NAMED(emulate_far_call), NAMED(emulate_segment), NAMED(emulate_table), NAMED(emulate_split),
    NAMED(emulate_pop), NAMED(emulate_crossing), NAMED(tables_elsewhere), NAMED(tables_in_circles), NAMED(tables_at_random),
    NAMED(forged_everything), NAMED(copies_into_the_loop), NAMED(copies_out_of_the_loop), NAMED(swaps_in_the_loop), NAMED(order_machine),
    NAMED(order_memory), NAMED(order_cpu), NAMED(order_kvm_run), NAMED(order_duplicate), NAMED(order_mask), NAMED(order_exit),
    NAMED(order_socket), NAMED(order_loop_unmapped), NAMED(order_everything_unmapped), NAMED(order_close), NAMED(order_return),
    NAMED(order_threads), NAMED(every_block), NAMED(spin), NAMED(spin_on_halts), NAMED(spin_on_faults), NAMED(spin_on_cpuid),
};

/* In a child: its steps after the attack may end it, too. */
static void run(attack *code)
{
    static volatile char touched[1 << 16];
    for (unsigned i = 0; i < sizeof touched; i += 4096) /* ring 0 meets no page that is not there */
        touched[i] = 1;
    mlockall(MCL_CURRENT);
    syscall(GIVE, code);
    printf("%d, ", found);
    fflush(stdout);
    for (int i = 0; i < 8; i++) { /* the loop is used once more */
        char *at = mmap(NULL, 1 << 22, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED)
            _exit(2);
        at[1 << 21] = i;
        mprotect(at, 4096, PROT_READ);
        munmap(at, 1 << 22);
    }
    printf("goes on\n");
    fflush(stdout);
    _exit(0);
}

static attack *find(const char *name)
{
    for (unsigned i = 0; i < sizeof attacks / sizeof attacks[0]; i++)
        if (!strcmp(name, attacks[i].name))
            return attacks[i].run;
    return NULL;
}

/* A neighbour in the sandbox, from the beginning: sends back every byte. */
static int to_neighbour[2], from_neighbour[2];

static void live_beside(void)
{
    char byte;
    pipe(to_neighbour);
    pipe(from_neighbour);
    if (fork())
        return;
    while (close(to_neighbour[1]), read(to_neighbour[0], &byte, 1) == 1) {
        char *at = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        at[8192] = byte;
        write(from_neighbour[1], at + 8192, 1);
        munmap(at, 1 << 20);
    }
    _exit(0);
}

static int does_neighbour_answer(char byte)
{
    struct pollfd answer = {from_neighbour[0], POLLIN, 0};
    char back = 0;
    write(to_neighbour[1], &byte, 1);
    return poll(&answer, 1, 60000) == 1 && read(from_neighbour[0], &back, 1) == 1 && back == byte;
}

/* A line about it: "NAME: STATUS: what it said". */
static void attempt(const char *name)
{
    char said[256] = "";
    int out[2], status, limit_ms = strncmp(name, "spin", 4) ? 60000 : 1500;
    pipe(out);
    pid_t pid = fork();
    if (!pid) {
        dup2(out[1], 1);
        close(to_neighbour[1]);
        run(find(name));
    }
    close(out[1]);
    struct pollfd ended = {out[0], POLLIN, 0};
    for (int used = 0, more = 1; more > 0 && used < (int)sizeof said - 1; used += more) {
        if (poll(&ended, 1, limit_ms) != 1)
            kill(pid, SIGKILL);
        more = read(out[0], said + used, sizeof said - 1 - used);
    }
    close(out[0]);
    waitpid(pid, &status, 0);
    said[strcspn(said, "\n")] = 0;
    printf("%s: %d: %s\n", name, WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status), said);
    if (!does_neighbour_answer(name[0]))
        puts("the neighbour does not answer");
    fflush(stdout);
}

/* given NAME...: waits for a line of input before the first attack and after the last (watch.py). */
int main(int count, char **names)
{
    for (unsigned i = 0; count == 1 && i < sizeof attacks / sizeof attacks[0]; i++)
        puts(attacks[i].name);
    live_beside();
    for (int i = 0; i < 3; i++) /* the pool of blanks is as it will be */
        does_neighbour_answer(i), fork() ? wait(NULL) : (_exit(0), 0);
    puts("@begin");
    fflush(stdout);
    getchar();
    for (int i = 1; i < count; i++)
        if (find(names[i]))
            attempt(names[i]);
    puts("@end");
    fflush(stdout);
    getchar();
    return 0;
}
