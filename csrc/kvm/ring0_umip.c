/* Ring 0: stores of descriptor-table registers and their like. The processor refuses them to programs (UMIP), Linux
 * then stores constants (arch/x86/kernel/umip.c), and so does this.
 */
#include "kvm.h"

#define MAX_INSTRUCTION 15
#define GDT_SHOWN 0xfffffffffffe0000ULL
#define IDT_SHOWN 0xffffffffffff0000ULL
#define CR0_SHOWN 0x80050033ULL

struct instruction {
    uint8_t bytes[MAX_INSTRUCTION + 1];
    uint32_t length; /* of what could be read */
    uint32_t at; /* beyond the length: the instruction is incomplete */
    uint8_t rex, segment, is_short, is_narrow; /* prefixes; operand of 16 bits, address of 32 */
    uint8_t group, mod, reg, rm;
};

static uint8_t next(struct instruction *in)
{
    in->at++;
    return in->at <= in->length ? in->bytes[in->at - 1] : 0;
}

static int32_t next_word(struct instruction *in)
{
    uint32_t value = 0;
    for (int i = 0; i < 32; i += 8)
        value |= (uint32_t)next(in) << i;
    return value;
}

static uint64_t *register_of(struct trap *trap, uint32_t number)
{
    static const uint8_t order[] = {13, 14, 12, 11, 0, 10, 9, 8}; /* rax rcx rdx rbx (rsp) rbp rsi rdi in `regs` */
    return number == 4 ? &trap->rsp : number > 7 ? &trap->regs[number - 8] : &trap->regs[order[number]];
}

static void decode(struct instruction *in)
{
    uint8_t byte;
    for (;;) {
        byte = next(in);
        if (byte == 0x66)
            in->is_short = 1;
        else if (byte == 0x67)
            in->is_narrow = 1;
        else if (byte == 0x64 || byte == 0x65)
            in->segment = byte;
        else if (byte != 0x26 && byte != 0x2e && byte != 0x36 && byte != 0x3e && byte != 0xf2 && byte != 0xf3)
            break;
        if (in->at > in->length)
            return;
    }
    if ((byte & 0xf0) == 0x40) {
        in->rex = byte;
        byte = next(in);
    }
    in->group = byte == 0x0f ? next(in) : 0xff;
    uint8_t modrm = next(in);
    in->mod = modrm >> 6;
    in->reg = modrm >> 3 & 7;
    in->rm = modrm & 7;
}

/* The address of the memory operand; reads the rest of the instruction. */
static uint64_t address_of(struct instruction *in, struct trap *trap)
{
    uint64_t at = 0;
    bool is_relative = false;
    uint8_t base = in->rm;
    if (base == 4) {
        uint8_t sib = next(in), index = (sib >> 3 & 7) | (in->rex & 2) << 2;
        base = sib & 7;
        if (index != 4)
            at = *register_of(trap, index) << (sib >> 6);
    } else if (base == 5 && !in->mod) {
        is_relative = true;
    }
    bool is_absolute = base == 5 && !in->mod;
    if (!is_absolute)
        at += *register_of(trap, base | (in->rex & 1) << 3);
    if (in->mod == 2 || is_absolute)
        at += (int64_t)next_word(in);
    else if (in->mod == 1)
        at += (int64_t)(int8_t)next(in);
    if (is_relative)
        at += trap->rip + in->at;
    if (in->is_narrow)
        at &= 0xffffffff;
    if (in->segment == 0x64)
        at += __builtin_ia32_rdfsbase64();
    if (in->segment == 0x65)
        at += __builtin_ia32_rdgsbase64();
    return at;
}

/* A general protection fault of the program: whether it was such a store, which is done now or has become a page
 * fault. */
bool ring0_store(struct trap *trap)
{
    struct instruction in = {.length = MAX_INSTRUCTION};
    uint64_t value[2] = {0, 0}, at = 0;
    if (trap->error || trap->rip >= MAX_ADDRESS)
        return false;
    in.length -= ring0_copy(in.bytes, (void *)trap->rip, MAX_INSTRUCTION);
    decode(&in);
    bool is_table = in.group == 1 && in.reg < 2;
    if (!(is_table && in.mod != 3) && !(in.group == 1 && in.reg == 4) && !(in.group == 0 && in.reg < 2))
        return false;
    if (is_table) { /* a limit of 16 bits, which is 0, and the base */
        uint64_t base = in.reg ? IDT_SHOWN : GDT_SHOWN;
        value[0] = base << 16;
        value[1] = base >> 48;
    } else {
        value[0] = in.group ? CR0_SHOWN : in.reg ? TSS_SELECTOR : 0;
    }
    if (in.mod != 3)
        at = address_of(&in, trap);
    if (in.at > in.length || at == ~0ULL) /* insn_get_addr_ref returns this without an address */
        return false;
    if (in.mod == 3) {
        uint64_t *to = register_of(trap, in.rm | (in.rex & 1) << 3);
        uint64_t written = in.rex & 8 ? ~0ULL : in.is_short ? 0xffff : 0xffffffff; /* and no more, of 32 bits neither */
        *to = (*to & ~written) | (value[0] & written);
    } else if (at >= MAX_ADDRESS || ring0_copy((void *)at, value, is_table ? 10 : 2)) {
        trap->vector = VECTOR_PAGE_FAULT;
        trap->error = NOT_STORED;
        __asm__ volatile("mov %0, %%cr2" ::"r"(at));
        return false;
    }
    trap->rip += in.at;
    return true;
}
