/* Every vector: by an instruction that asks for it, and by its cause where ring 3 can cause it. */
#include "attack.h"

static void every_vector(void)
{
    for (int vector = 0; vector < 256; vector++) {
        unsigned char bytes[] = {0xcd, vector};
        char name[32];
        if (vector == 0x80) /* system calls of 32-bit programs */
            continue;
        sprintf(name, "int 0x%x", vector);
        attack_with(name, bytes, 2, 0, 0, 0);
    }
}

/* Everything at odd addresses with EFLAGS.AC set: Linux has CR0.AM set, so that is #AC from ring 3 (QEMU's emulation does not raise
 * it).  And a system call, and other exceptions, with the flag set: it means something else to ring 0 (SMAP). */
#define CHECKED(code) "\x9c\x81\x0c\x24\x00\x00\x04\x00\x9d" code "\x9c\x81\x24\x24\xff\xff\xfb\xff\x9d"

static void alignment(void)
{
    ATTACK("aligned", CHECKED("\x8b\x08"));
    ATTACK("load at an odd address", CHECKED("\x8b\x48\x01"));
    ATTACK("store at an odd address", CHECKED("\x89\x48\x01"));
    ATTACK("load across a page", CHECKED("\x8b\x88\xfe\x0f\x00\x00"));
    ATTACK("odd stack", CHECKED("\x48\x89\xe1\x48\xff\xcc\x50\x48\x89\xcc"));
    ATTACK("cmpxchg16b at an odd address", "\xf0\x48\x0f\xc7\x48\x01");
    ATTACK("flag and ud2", CHECKED("\x0f\x0b"));
    ATTACK("flag and a fault", CHECKED("\x31\xc0\x8b\x00"));
    attack_with("flag and a call", CHECKED("\x0f\x05"), sizeof(CHECKED("\x0f\x05")) - 1, 39, 0, 0); /* getpid */
    attack_with("flag and a call that reads", CHECKED("\x48\x89\xf7\x0f\x05"), sizeof(CHECKED("\x48\x89\xf7\x0f\x05")) - 1, 80, 0,
                0); /* chdir */
}

/* A second time round within a handler's reach: faults in a row leave nothing behind. */
static void many(void)
{
    int count = 0;
    for (int i = 0; i < 2000; i++) {
        ATTACK(NULL, "\x0f\x0b");
        count += got_signal == SIGILL;
    }
    printf("%d of 2000\n", count);
}

int main(void)
{
    prepare();
    every_vector();
    attack_with("divide by zero", "\x31\xc9\x48\xf7\xf1", 5, 1, 0, 0);
    attack_with("quotient too large", "\x48\xf7\xf1", 3, 0, 1, 2);
    ATTACK("int3", "\xcc");
    ATTACK("icebp", "\xf1");
    ATTACK("trap flag", "\x9c\x81\x0c\x24\x00\x01\x00\x00\x9d\x90\x90");
    ATTACK("ud0", "\x0f\xff\xc0");
    ATTACK("ud1", "\x0f\xb9\xc0");
    ATTACK("ud2", "\x0f\x0b");
    ATTACK("into", "\xce");
    ATTACK("bound", "\x62\x00\x00\x00\x00\x00");
    ATTACK("lock on a register", "\xf0\x48\x01\xc0");
    ATTACK("fifteen prefixes and more", "\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x66\x90");
    ATTACK("movaps at an odd address", "\x0f\x28\x40\x01");
    /* fninit; fldcw of a word with everything unmasked; 1 / 0; fwait */
    *(unsigned short *)memory = 0x340;
    ATTACK("x87 exception", "\xdb\xe3\xd9\x28\xd9\xe8\xd9\xee\xde\xf9\x9b\xdb\xe3");
    asm volatile("fninit");
    /* ldmxcsr with bits that are reserved */
    *(unsigned *)memory = 0xffffffff;
    ATTACK("reserved bits of mxcsr", "\x0f\xae\x10");
    /* xrstor of garbage: compacted, with bits that are reserved */
    memset(memory, 0xff, 4096);
    attack_with("xrstor of garbage", "\x0f\xae\x2b", 3, 0xffffffff, 0, 0xffffffff);
    alignment();
    many();
    puts("alive");
    return 0;
}
