/* The virtual machine of a guest's host process, and its virtual CPUs.  KVM's interface: Documentation/virt/kvm/api.rst.
 *
 * Each process makes its own: a VM belongs to the address space that made it.  A virtual CPU belongs to a slot and is used
 * again by the next thread that has the slot. Descriptors: the VM has the lowest free number, virtual CPUs those from
 * FIRST_CPU_FD on, above those that the sentry injects; one is made only while no injection can be under way,
 * before a process's first reply and in a batch of operations.
 */
#include "kvm.h"

#define CPUID_LIMIT 0x40000000U /* leaves from here on until 0x80000000 are a hypervisor's: guests see none */
#define CR0 0x80050033ULL       /* PE MP ET NE WP AM PG */
#define CR4 0x350620ULL         /* PAE OSFXSR OSXMMEXCPT FSGSBASE OSXSAVE SMEP SMAP */
#define CR4_UMIP 0x800ULL
#define EFER 0xd01ULL /* SCE LME LMA NXE */
#define APIC_BASE 0xfee00800ULL
#define FLAGS_MASK 0x257fd5ULL /* the flags that a system call clears: as Linux */
#define F_DUPFD_CLOEXEC 1030

/* No such call exists: the filter ends the process, and the host's log (audit, type 1326) has the number. */
void end_process(uint32_t why)
{
    for (;;)
        call1(END_CALL + (why & END_REASONS), 0);
}

/* The host has no memory to go on with. The sentry takes an end that was not ordered, without a signal, for SIGKILL: as
 * Linux ends a process then (kernel/loop.py, process_died). */
void end_for_memory(void)
{
    for (;;)
        call1(__NR_exit_group, 1);
}

static struct cpu *cpu_of(uint64_t slotno)
{
    return (struct cpu *)(RING0_BASE + slotno * PAGE);
}

static long control(int fd, unsigned long command, const void *arg)
{
    return call3(__NR_ioctl, fd, command, arg);
}

static void zero(void *at, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        ((volatile char *)at)[i] = 0;
}

bool add_memory(uint32_t number, uint32_t flags, uint64_t gpa, uint64_t length, uint64_t host)
{
    struct kvm_userspace_memory_region region = {number, flags, gpa, length, host};
    return control(LOOP->vm, KVM_SET_USER_MEMORY_REGION, &region) == 0;
}

static bool add_ring0(uint32_t flags)
{
    return add_memory(SLOT_RING0, flags, GPA_RING0, RING0_SIZE, RING0_BASE);
}

/* Flush the translations of every virtual CPU: KVM does that when the log of written pages is turned on for a slot. */
void flush_all(void)
{
    if (!add_ring0(KVM_MEM_LOG_DIRTY_PAGES) || !add_ring0(0))
        end_process(__LINE__);
}

static uint64_t text_size(void)
{
    return (uint64_t)ring0_end - (uint64_t)ring0_begin;
}

static uint64_t vdso_size(void)
{
    return LOOP->vdso_end - VDSO_BASE;
}

static bool add_all(void)
{
    if (!add_memory(SLOT_TABLES, 0, GPA_TABLES, TABLES_SIZE, TABLES_BASE) || !add_ring0(0) ||
        !add_memory(SLOT_TEXT, KVM_MEM_READONLY, GPA_TEXT, text_size(), (uint64_t)ring0_begin) ||
        !add_memory(SLOT_INFO, KVM_MEM_READONLY, GPA_INFO, INFO_SIZE, INFO_BASE) ||
        (LOOP->vdso_end && !add_memory(SLOT_VDSO, KVM_MEM_READONLY, GPA_VDSO, vdso_size(), VDSO_BASE)) ||
        !add_memory(SLOT_REGION, 0, GPA_REGION, REGION_SIZE, REGION_BASE))
        return false;
    for (uint32_t i = 0; i < LOOP->blocks_used; i++)
        if (LOOP->used[i] != NO_BLOCK && !add_memory(SLOT_BLOCKS + i, 0, GPA_BLOCKS + i * BLOCK, BLOCK, LOOP->used[i] * BLOCK))
            return false;
    return true;
}

static void close_vm(void)
{
    for (uint64_t i = 0; i < SLOT_COUNT; i++) {
        if (LOOP->cpus[i])
            call1(__NR_close, LOOP->cpus[i]);
        LOOP->cpus[i] = 0;
    }
    if (LOOP->vm >= 0)
        call1(__NR_close, LOOP->vm);
    LOOP->vm = -1;
}

/* The machine of this process. The parent's descriptors that a fork has copied are closed: they would keep its
 * machine alive. */
static bool try_vm(void)
{
    close_vm();
    do
        LOOP->vm = control(KVM_FD, KVM_CREATE_VM, 0);
    while (LOOP->vm == -4); /* EINTR: the process was stopped meanwhile, as a frozen control group stops it */
    if (LOOP->vm != VM_FD)
        return false;
    struct kvm_enable_cap pauses = {.cap = KVM_CAP_X86_DISABLE_EXITS, .args = {KVM_X86_DISABLE_EXITS_PAUSE}};
    control(LOOP->vm, KVM_ENABLE_CAP, &pauses); /* spinning need not exit: only a matter of speed */
    struct kvm_enable_cap counters = {.cap = KVM_CAP_PMU_CAPABILITY, .args = {KVM_PMU_CAP_DISABLE}};
    control(LOOP->vm, KVM_ENABLE_CAP, &counters); /* less of KVM's code in reach of ring 0: counters are hidden */
    return add_all();
}

void make_vm(void)
{
    if (try_vm())
        return;
    if (LOOP->vm == NO_MEMORY)
        end_for_memory();
    end_process(__LINE__);
}

static bool set_msrs(int fd, const struct cpu *cpu)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entries[5];
    } msrs = {{5, 0, {}},
              {{0xc0000081, 0, (USER_CS - 16ULL) << 48 | (uint64_t)KERNEL_CS << 32}, /* STAR */
               {0xc0000082, 0, (uint64_t)ring0_call},                               /* LSTAR */
               {0xc0000083, 0, (uint64_t)ring0_call},                               /* CSTAR: no such code can run */
               {0xc0000084, 0, FLAGS_MASK},
               {0xc0000102, 0, (uint64_t)cpu}}}; /* KERNEL_GS_BASE */
    return control(fd, KVM_SET_MSRS, &msrs) == 5;
}

static bool set_segments(int fd, struct cpu *cpu)
{
    struct kvm_sregs s;
    zero(&s, sizeof s);
    s.cs = (struct kvm_segment){.limit = ~0U, .selector = KERNEL_CS, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    s.ss = (struct kvm_segment){.limit = ~0U, .selector = KERNEL_SS, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    s.ds.unusable = s.es.unusable = s.fs.unusable = s.gs.unusable = s.ldt.unusable = 1;
    s.tr = (struct kvm_segment){
        .base = (uint64_t)&cpu->tss, .limit = sizeof cpu->tss - 1, .selector = TSS_SELECTOR, .type = 11, .present = 1};
    s.gdt = (struct kvm_dtable){.base = (uint64_t)cpu->gdt, .limit = sizeof cpu->gdt - 1};
    s.idt = (struct kvm_dtable){.base = IDT_BASE, .limit = PAGE - 1};
    s.cr0 = CR0;
    s.cr3 = GPA_TABLES;
    s.cr4 = LOOP->cr4;
    s.efer = EFER;
    s.apic_base = APIC_BASE;
    return control(fd, KVM_SET_SREGS, &s) == 0;
}

/* The virtual CPU of a slot, if it has none yet. */
bool make_cpu(uint64_t slotno)
{
    if (LOOP->cpus[slotno])
        return true;
    int low = control(LOOP->vm, KVM_CREATE_VCPU, (void *)slotno);
    int fd = low < 0 ? low : (int)call3(__NR_fcntl, low, F_DUPFD_CLOEXEC, FIRST_CPU_FD);
    if (low >= 0)
        call1(__NR_close, low);
    if (fd < 0)
        return false;
    struct cpu *cpu = cpu_of(slotno);
    uint64_t run = LOOP_RUNS_BASE + (slotno << LOOP_SHIFT);
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = LOOP->xcr0}}};
    struct kvm_enable_cap shown = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = {1}};
    control(fd, KVM_ENABLE_CAP, &shown); /* none of KVM's own registers and calls: cpuid shows none */
    uint64_t zero_offset = 0;
    struct kvm_device_attr tsc = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uint64_t)&zero_offset};
    bool is_ready = call6(__NR_mmap, run, 1 << LOOP_SHIFT, 3, 0x11, fd, 0) == (long)run &&
                    call3(__NR_madvise, run, 1 << LOOP_SHIFT, MADV_DONTFORK) == 0 && control(fd, KVM_SET_CPUID2, &LOOP->cpuid) == 0 &&
                    set_segments(fd, cpu) && control(fd, KVM_SET_XCRS, &xcrs) == 0 && set_msrs(fd, cpu) &&
                    control(fd, KVM_SET_DEVICE_ATTR, &tsc) == 0;
    if (!is_ready) {
        call1(__NR_close, fd);
        LOOP->vain++;
    }
    LOOP->cpus[slotno] = is_ready ? fd : 0;
    return is_ready;
}

static void fill_cpu(struct cpu *cpu, uint64_t slotno)
{
    uint64_t slot = REGION_BASE + slotno * SLOT_SIZE, tss = (uint64_t)&cpu->tss;
    zero(cpu, sizeof *cpu);
    cpu->stack = (uint64_t)cpu + PAGE;
    cpu->slot = (struct slot *)slot;
    cpu->regs = (uint64_t *)(slot + LOOP->regs_offset);
    cpu->fp = (char *)(slot + LOOP->fp_offset);
    cpu->xcr0 = LOOP->xcr0;
    cpu->gdt[KERNEL_CS / 8] = 0x00af9b000000ffff;
    cpu->gdt[KERNEL_SS / 8] = 0x00cf93000000ffff;
    cpu->gdt[USER_SS / 8] = 0x00cff3000000ffff;
    cpu->gdt[USER_CS / 8] = 0x00affb000000ffff;
    cpu->gdt[TSS_SELECTOR / 8] = (tss & 0xffffff) << 16 | (tss >> 24 & 0xff) << 56 | 0x8bULL << 40 | (sizeof cpu->tss - 1);
    cpu->gdt[TSS_SELECTOR / 8 + 1] = tss >> 32;
    cpu->gdt[CPU_SELECTOR / 8] = 0x0040f50000000000;
    cpu->tss.rsp0 = cpu->stack;
    cpu->tss.io_map = sizeof cpu->tss;
}

/* A thread begins on the virtual CPU of its slot, which may have been another's. */
void start_cpu(struct thread *t, uint64_t slotno)
{
    struct cpu *cpu = cpu_of(slotno);
    fill_cpu(cpu, slotno);
    *t = (struct thread){cpu, (struct kvm_run *)(LOOP_RUNS_BASE + (slotno << LOOP_SHIFT)), cpu->slot, LOOP->cpus[slotno], 0, 0};
    struct kvm_regs regs = {.rip = (uint64_t)ring0_start, .rsp = cpu->stack, .rflags = 2};
    t->run->request_interrupt_window = t->run->immediate_exit = 0;
    if (control(t->fd, KVM_SET_REGS, &regs) < 0)
        end_process(__LINE__);
}

/* ---- the zygote, once ---- */

static const struct kvm_cpuid_entry2 *leaf(uint32_t function)
{
    static const struct kvm_cpuid_entry2 none;
    for (uint32_t i = 0; i < LOOP->cpuid.nent; i++)
        if (LOOP->entries[i].function == function && !LOOP->entries[i].index)
            return &LOOP->entries[i];
    return &none;
}

/* Hide features that a program has no use for, and that must not be in reach of an attacker in ring 0: virtualisation
 * in the machine, counters, tracing, enclaves, encrypted memory. */
static void hide_features(void)
{
    static const struct {
        uint32_t function, ebx, ecx, edx;
        bool is_whole;
    } hidden[] = {
        {0x1, 0, 1 << 5 | 1 << 15, 0, false},                                      /* VMX PDCM */
        {0x7, 1 << 2 | 1 << 25, 0, 1 << 19, false},                                /* SGX PT, LBR */
        {0x80000001, 0, 1 << 2 | 1 << 10 | 1 << 23 | 1 << 24 | 1 << 28, 0, false}, /* SVM IBS counters */
        {0xa, 0, 0, 0, true},
        {0x12, 0, 0, 0, true},
        {0x14, 0, 0, 0, true},
        {0x1c, 0, 0, 0, true},
        {0x23, 0, 0, 0, true},
        {0x8000000a, 0, 0, 0, true},
        {0x8000001b, 0, 0, 0, true},
        {0x8000001f, 0, 0, 0, true},
        {0x80000022, 0, 0, 0, true},
    };
    for (uint32_t i = 0; i < LOOP->cpuid.nent; i++) {
        struct kvm_cpuid_entry2 *e = &LOOP->entries[i];
        for (uint32_t j = 0; j < sizeof hidden / sizeof hidden[0]; j++) {
            if (hidden[j].function != e->function || (e->index && !hidden[j].is_whole))
                continue;
            e->eax = hidden[j].is_whole ? 0 : e->eax;
            e->ebx = hidden[j].is_whole ? 0 : e->ebx & ~hidden[j].ebx;
            e->ecx = hidden[j].is_whole ? 0 : e->ecx & ~hidden[j].ecx;
            e->edx = hidden[j].is_whole ? 0 : e->edx & ~hidden[j].edx;
        }
    }
}

static void fill_vectors(void)
{
    uint64_t *idt = (uint64_t *)IDT_BASE;
    for (uint64_t i = 0; i < 256; i++) {
        uint64_t at = (uint64_t)ring0_vectors + 16 * i, level = i == 3 || i == 4 ? 3 : 0;
        idt[2 * i] = (at & 0xffff) | (uint64_t)KERNEL_CS << 16 | (0x8e00ULL | level << 13) << 32 | (at >> 16 & 0xffff) << 48;
        idt[2 * i + 1] = at >> 32;
    }
}

static void map_own(const struct boot *boot)
{
    map_fixed((uint64_t)ring0_begin, GPA_TEXT, text_size(), PROT_READ | PROT_EXEC, false);
    map_fixed(RING0_BASE, GPA_RING0, RING0_SIZE, PROT_READ | PROT_WRITE, false);
    map_fixed(INFO_BASE, GPA_INFO, INFO_SIZE, PROT_READ, false);
    map_fixed(REGION_BASE, GPA_REGION, REGION_SIZE, PROT_READ | PROT_WRITE, false);
    uint64_t text = 0; /* the last area that was moved there is [vdso] */
    for (uint64_t i = 0; i < boot->op_count && i < MAX_START_OPS; i++)
        text = boot->ops[i].nr == __NR_mremap ? boot->ops[i].args[4] : text;
    for (uint64_t i = 0; i < boot->op_count && i < MAX_START_OPS; i++) {
        const struct op *op = &boot->ops[i];
        if (op->nr != __NR_mremap)
            continue;
        uint64_t at = op->args[4], length = (op->args[1] + PAGE - 1) & ~(PAGE - 1);
        map_fixed(at, GPA_VDSO + at - VDSO_BASE, length, at == text ? PROT_READ | PROT_EXEC : PROT_READ, true);
        LOOP->vdso_end = at + length;
    }
}

/* Prepare the memory that all guests of the sandbox inherit, and try to make a machine. 0, or a negative errno. */
long prepare(const struct boot *boot)
{
    long at = call6(__NR_mmap, LOOP_BASE, LOOP_SIZE, 3, 0x4032, -1, 0); /* private, fixed, anonymous, without reserve */
    if (at != (long)LOOP_BASE)
        return at;
    call3(__NR_madvise, LOOP_BASE, LOOP_SIZE, MADV_NOHUGEPAGE); /* each process touches a few pages of each of its parts */
    LOOP->vm = -1;
    if (control(KVM_FD, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return -95; /* EOPNOTSUPP */
    if (control(KVM_FD, KVM_GET_VCPU_MMAP_SIZE, 0) > 1 << LOOP_SHIFT)
        return -95;
    LOOP->cpuid.nent = MAX_CPUID;
    long error = control(KVM_FD, KVM_GET_SUPPORTED_CPUID, &LOOP->cpuid);
    if (error < 0)
        return error;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < LOOP->cpuid.nent; i++)
        if (LOOP->entries[i].function < CPUID_LIMIT || LOOP->entries[i].function >= 0x80000000)
            LOOP->entries[kept++] = LOOP->entries[i];
    LOOP->cpuid.nent = kept;
    hide_features();
    uint32_t needed = 1U << 0 | 1U << 7 | 1U << 20; /* FSGSBASE SMEP SMAP */
    if ((leaf(7)->ebx & needed) != needed || !(leaf(1)->ecx & 1U << 26))
        return -95;
    LOOP->cr4 = CR4 | (leaf(7)->ecx & 4 ? CR4_UMIP : 0);
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    LOOP->xcr0 = ((uint64_t)high << 32 | low) & ((uint64_t)leaf(13)->edx << 32 | leaf(13)->eax);
    long slots = control(KVM_FD, KVM_CHECK_EXTENSION, (void *)KVM_CAP_NR_MEMSLOTS);
    uint64_t bits = leaf(0x80000008)->eax & 0xff, room = bits > 32 ? (1ULL << (bits - 30)) - (GPA_BLOCKS >> 30) : 0;
    LOOP->blocks_max = slots > SLOT_BLOCKS && (uint64_t)(slots - SLOT_BLOCKS) < MAX_USED ? slots - SLOT_BLOCKS : MAX_USED;
    LOOP->blocks_max = room < LOOP->blocks_max ? room : LOOP->blocks_max;
    fill_vectors();
    map_own(boot);
    bool is_usable = try_vm() && make_cpu(0); /* each process has its own: this one only shows whether that works */
    close_vm();
    call2(__NR_munmap, LOOP_RUNS_BASE, 1 << LOOP_SHIFT);
    return is_usable ? 0 : -5; /* EIO */
}
