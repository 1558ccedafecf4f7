/* Operations that only ring 0 may execute. */
#include "attack.h"

static const struct {
    const char *name, *bytes;
    int length;
} instructions[] = {
#define I(name, bytes) {name, bytes, sizeof(bytes) - 1}
    I("hlt", "\xf4"), I("cli", "\xfa"), I("sti", "\xfb"),
    I("in al, 0x80", "\xe4\x80"), I("out 0x80, al", "\xe6\x80"), I("in eax, 0x60", "\xe5\x60"),
    I("in al, dx", "\xec"), I("in eax, dx", "\xed"), I("out dx, al", "\xee"), I("out dx, eax", "\xef"),
    I("insb", "\x6c"), I("insd", "\x6d"), I("outsb", "\x6e"), I("outsd", "\x6f"),
    I("rep insb", "\xf3\x6c"), I("rep outsb", "\xf3\x6e"),
    I("invd", "\x0f\x08"), I("wbinvd", "\x0f\x09"), I("clts", "\x0f\x06"),
    I("lmsw", "\x0f\x01\xf0"), I("invlpg", "\x0f\x01\x38"), I("swapgs", "\x0f\x01\xf8"),
    I("sysret", "\x48\x0f\x07"), I("rsm", "\x0f\xaa"),
    I("lgdt", "\x0f\x01\x10"), I("lidt", "\x0f\x01\x18"), I("lldt", "\x0f\x00\xd0"), I("ltr", "\x0f\x00\xd8"),
    I("rdpmc", "\x0f\x33"), I("xsetbv", "\x0f\x01\xd1"), I("invpcid", "\x66\x0f\x38\x82\x00"),
    I("vmrun", "\x0f\x01\xd8"), I("vmload", "\x0f\x01\xda"), I("vmsave", "\x0f\x01\xdb"),
    I("stgi", "\x0f\x01\xdc"), I("clgi", "\x0f\x01\xdd"), I("skinit", "\x0f\x01\xde"), I("invlpga", "\x0f\x01\xdf"),
    I("vmxon", "\xf3\x0f\xc7\x30"), I("vmlaunch", "\x0f\x01\xc2"), I("vmresume", "\x0f\x01\xc3"),
    I("vmxoff", "\x0f\x01\xc4"), I("vmread", "\x0f\x78\xc0"), I("vmptrld", "\x0f\xc7\x30"),
    I("encls", "\x0f\x01\xcf"), I("clac", "\x0f\x01\xca"), I("stac", "\x0f\x01\xcb"),
#undef I
};

static void registers(void)
{
    char name[32];
    for (int number = 0; number < 16; number++) {
        int rex = number < 8 ? 0x40 : 0x44;
        for (int direction = 0; direction < 2; direction++) {
            unsigned char control[] = {rex, 0x0f, 0x20 | direction << 1, 0xc0 | (number & 7) << 3};
            unsigned char debug[] = {rex, 0x0f, 0x21 | direction << 1, 0xc0 | (number & 7) << 3};
            sprintf(name, "%s cr%d", direction ? "write" : "read", number);
            attack_with(name, control, 4, 0, 0, 0);
            sprintf(name, "%s dr%d", direction ? "write" : "read", number);
            attack_with(name, debug, 4, 0, 0, 0);
        }
    }
}

/* Of the processor, of KVM's clock and wall clock, of Hyper-V and Xen, and some that are none. */
static const unsigned msrs[] = {
    0x10, 0x1b, 0x3a, 0x8b, 0xfe, 0x174, 0x175, 0x176, 0x1a0, 0x1d9, 0x277, 0x2ff, 0x6e0, 0x800, 0x808, 0x830,
    0x11, 0x12, 0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03, 0x4b564d04, 0x40000000, 0x40000001, 0x40000070,
    0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103,
    0xc0010015, 0xc0010114, 0xc0010117, 0xffffffff,
};

int main(void)
{
    char name[32];
    prepare();
    for (unsigned i = 0; i < sizeof instructions / sizeof instructions[0]; i++)
        attack_with(instructions[i].name, instructions[i].bytes, instructions[i].length, (unsigned long)memory, 3, 0x3f8);
    registers();
    for (unsigned i = 0; i < sizeof msrs / sizeof msrs[0]; i++) {
        sprintf(name, "rdmsr 0x%x", msrs[i]);
        attack_with(name, "\x0f\x32", 2, 0, msrs[i], 0);
        sprintf(name, "wrmsr 0x%x", msrs[i]);
        attack_with(name, "\x0f\x30", 2, 0, msrs[i], 0);
    }
    static const unsigned short ports[] = {0x20, 0x40, 0x60, 0x70, 0x80, 0xa0, 0xcf8, 0xcfc, 0x3f8, 0x510, 0x5658, 0xffff};
    for (unsigned i = 0; i < sizeof ports / sizeof ports[0]; i++) {
        sprintf(name, "in 0x%x", ports[i]);
        attack_with(name, "\xed", 1, 0, 0, ports[i]);
        sprintf(name, "out 0x%x", ports[i]);
        attack_with(name, "\xef", 1, 0, 0, ports[i]);
    }
    /* popf changes neither IOPL nor IF, and reports no error. */
    unsigned long flags = attack_with("popf", "\x9c\x48\x81\x34\x24\x00\x32\x00\x00\x9d\x9c\x58", 12, 0, 0, 0);
    printf("IOPL %lu, IF %lu\n", flags >> 12 & 3, flags >> 9 & 1);
    puts("alive");
    return 0;
}
