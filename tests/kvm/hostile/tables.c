/* Descriptor tables and selectors: stores, loads, far transfers, returns to another ring. */
#include "attack.h"

/* The value that a store leaves in memory, or in rax: where the processor refuses it (UMIP), Linux and cloche give
 * constants. */
static void store_at(const char *name, const char *bytes, int length, unsigned char *at, unsigned long rcx)
{
    unsigned long rax;
    memset(memory - 4096, 0x5a, 8192);
    rax = attack_with(NULL, bytes, length, (unsigned long)at, rcx, 0);
    printf("%s: ", name);
    if (got_signal)
        printf("%s, code %d, trap %ld, error %lx%s", sigabbrev_np(got_signal), got_code, got_trap, got_error,
               got_address == at ? ", there" : "");
    else if ((rax ^ (unsigned long)at) >> 32)
        printf("%lx", rax);
    else if ((rax ^ (unsigned long)at) >> 16)
        printf("%lx in the lower half", rax & 0xffffffff);
    else if (rax != (unsigned long)at)
        printf("%lx in 16 bits", rax & 0xffff);
    for (int i = -4096; i < 4096 && !got_signal; i++)
        if (memory[i] != 0x5a)
            printf(" %d=%02x", i, memory[i]);
    printf("\n");
}

#define STORE(name, bytes) store_at(name, bytes, sizeof(bytes) - 1, memory, 0)

static void stores(void)
{
    STORE("sgdt", "\x0f\x01\x00");
    STORE("sidt", "\x0f\x01\x08");
    STORE("sldt to rax", "\x48\x0f\x00\xc0");
    STORE("str to rax", "\x48\x0f\x00\xc8");
    STORE("smsw to rax", "\x48\x0f\x01\xe0");
    STORE("sldt to eax", "\x0f\x00\xc0");
    STORE("str to ax", "\x66\x0f\x00\xc8");
    STORE("smsw to eax", "\x0f\x01\xe0");
    STORE("smsw to r9, then rax", "\x49\x0f\x01\xe1\x4c\x89\xc8");
    STORE("sldt to memory", "\x0f\x00\x00");
    STORE("str to memory", "\x0f\x00\x08");
    STORE("smsw to memory", "\x0f\x01\x20");
    STORE("sgdt, 8 bits away", "\x0f\x01\x40\xf0");
    STORE("sgdt, 32 bits away", "\x0f\x01\x80\x00\x01\x00\x00");
    store_at("sidt, with an index", "\x0f\x01\x4c\xc8\x08", 5, memory, 3);                     /* 8(%rax,%rcx,8) */
    store_at("sidt, with r8 and r9", "\x49\x89\xc0\x49\x89\xc9\x43\x0f\x01\x4c\x48\x08", 12, memory, 5); /* 8(%r8,%r9,2) */
    STORE("smsw on the stack, then popped", "\x50\x0f\x01\x24\x24\x58");                    /* push %rax; smsw (%rsp); pop %rax */
    STORE("sgdt behind itself, then read", "\x0f\x01\x05\x40\x00\x00\x00\x48\x8b\x05\x3b\x00\x00\x00"); /* 0x40(%rip) */
    STORE("smsw with prefixes", "\x2e\x66\xf2\x0f\x01\xe0");
    store_at("smsw to nowhere", "\x0f\x01\x20", 3, (unsigned char *)0x1000, 0);
    static const unsigned long others[] = {0x7ffffffff000, 0x7fffffffffff, 0x800000000000, 0x123456789abcdef0,
                                           0xffff7fffffffffff, 0xffff888000000000, 0xffffffff81000000, 0xffffffffffffffff};
    for (unsigned i = 0; i < sizeof others / sizeof others[0]; i++) {
        store_at("sgdt to others' memory", "\x0f\x01\x00", 3, (unsigned char *)others[i], 0);
        store_at("sldt to others' memory", "\x0f\x00\x00", 3, (unsigned char *)others[i], 0);
    }
    unsigned char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    store_at("sidt to what can only be read", "\x0f\x01\x08", 3, page, 0);
    store_at("smsw to what can only be read", "\x0f\x01\x20", 3, page, 0);
}

static void selectors(void)
{
    static const struct {
        const char *name, *bytes;
    } segments[] = {{"ds", "\x8e\xd8"}, {"es", "\x8e\xc0"}, {"fs", "\x8e\xe0"}, {"gs", "\x8e\xe8"}, {"ss", "\x8e\xd0"}, {"cs", "\x8e\xc8"}};
    static const unsigned short values[] = {0x08, 0x10, 0x18, 0x40, 0x48, 0x50, 0x80, 0x7fff8, 0xfff8, 0x04, 0x0c, 0xffff};
    char name[32];
    for (unsigned i = 0; i < 6; i++)
        for (unsigned j = 0; j < sizeof values / sizeof values[0]; j++) {
            unsigned char bytes[32] = {0};
            int length = 0;
            if (i == 2) { /* the thread's own storage must be there afterwards: rdfsbase r8; mov fs, ax; wrfsbase r8 */
                memcpy(bytes, "\xf3\x49\x0f\xae\xc0\x8e\xe0\xf3\x49\x0f\xae\xd0", length = 12);
            } else
                memcpy(bytes, segments[i].bytes, length = 2);
            sprintf(name, "%s = 0x%x", segments[i].name, values[j]);
            attack_with(name, bytes, length, values[j], 0, 0);
        }
    attack_with(NULL, "\x31\xc0\x8e\xd8\x8e\xc0\x8e\xe8", 8, 0, 0, 0); /* ds, es, gs = 0 */
}

/* lretq and iretq to selectors of ring 0, and to none. */
static void returns(void)
{
    static const unsigned char values[] = {0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x40, 0x60, 0x88, 0xf8};
    char name[32];
    for (unsigned i = 0; i < sizeof values; i++) {
        /* push cs; lea rax, [rip + 3]; push rax; lretq; (there:) */
        unsigned char far_return[] = {0x6a, values[i], 0x48, 0x8d, 0x05, 3, 0, 0, 0, 0x50, 0x48, 0xcb};
        sprintf(name, "lretq to 0x%x", values[i]);
        attack_with(name, far_return, sizeof far_return, 0, 0, 0);
        /* mov rcx, rsp; push ss; push rcx; pushf; push cs; lea rax, [rip + 3]; push rax; iretq; (there:) */
        unsigned char interrupt_return[] = {0x48, 0x89, 0xe1, 0x6a, 0x2b, 0x51, 0x9c, 0x6a, values[i],
                                            0x48, 0x8d, 0x05, 3, 0, 0, 0, 0x50, 0x48, 0xcf};
        sprintf(name, "iretq to cs 0x%x", values[i]);
        attack_with(name, interrupt_return, sizeof interrupt_return, 0, 0, 0);
        interrupt_return[4] = values[i];
        interrupt_return[8] = 0x33;
        sprintf(name, "iretq to ss 0x%x", values[i]);
        attack_with(name, interrupt_return, sizeof interrupt_return, 0, 0, 0);
    }
    unsigned char good[] = {0x48, 0x89, 0xe1, 0x6a, 0x2b, 0x51, 0x9c, 0x6a, 0x33, 0x48, 0x8d, 0x05, 3, 0, 0, 0, 0x50, 0x48, 0xcf};
    attack_with("iretq to ourselves", good, sizeof good, 0, 0, 0);
}

int main(void)
{
    prepare();
    stores();
    selectors();
    returns();
    attack_with("far call through memory", "\x48\xff\x18", 3, (unsigned long)memory, 0, 0);
    attack_with("far jump through memory", "\x48\xff\x28", 3, (unsigned long)memory, 0, 0);
    attack_with("lss from memory", "\x48\x0f\xb2\x00", 4, (unsigned long)memory, 0, 0);
    puts("alive");
    return 0;
}
