/* Descriptor tables and selectors: stores, loads, far transfers, returns to another ring. */
#include "attack.h"

/* Linux stores constants where the processor would refuse (UMIP); the platform kvm lets it refuse: docs/kvm.md. */
static void store(const char *name, const char *bytes, int length)
{
    memset(memory, 0x5a, 16);
    attack_with(NULL, bytes, length, (unsigned long)memory, 0, 0);
    int is_refused = got_signal == SIGSEGV && got_code == 128;
    printf("%s: %s\n", name, !got_signal || is_refused ? "stored or refused" : sigabbrev_np(got_signal));
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
    store("sgdt", "\x0f\x01\x00", 3);
    store("sidt", "\x0f\x01\x08", 3);
    store("sldt", "\x48\x0f\x00\xc0", 4);
    store("str", "\x48\x0f\x00\xc8", 4);
    store("smsw", "\x48\x0f\x01\xe0", 4);
    store("sldt to memory", "\x0f\x00\x00", 3);
    store("smsw to memory", "\x0f\x01\x20", 3);
    selectors();
    returns();
    attack_with("far call through memory", "\x48\xff\x18", 3, (unsigned long)memory, 0, 0);
    attack_with("far jump through memory", "\x48\xff\x28", 3, (unsigned long)memory, 0, 0);
    attack_with("lss from memory", "\x48\x0f\xb2\x00", 4, (unsigned long)memory, 0, 0);
    puts("alive");
    return 0;
}
