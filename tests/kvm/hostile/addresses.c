/* Addresses that are not the program's: not canonical, the kernel's half, beyond what is mapped, and physical ones. */
#include "attack.h"
#include <errno.h>
#include <sys/uio.h>

static const unsigned long addresses[] = {
    0x0, 0xfff, 0xb8000, 0xf0000, 0xfec00000, 0xfee00000, 0xfffbc000, 0xffffffff,
    0x7ffffffff000, 0x800000000000, 0x0000800000000001, 0x00ffffffffffffff, 0x0100000000000000, 0x7fffffffffffffff,
    0x8000000000000000, 0xff00000000000000, 0xffff7fffffffffff, 0xffff800000000000, 0xffff888000000000,
    0xffffc90000000000, 0xffffea0000000000, 0xfffffe0000000000, 0xffffffff80000000, 0xffffffff81000000,
    0xffffffffff5ff000, 0xfffffffffffff000, 0xffffffffffffffff,
};

static void one(unsigned long address)
{
    static const struct {
        const char *name, *bytes;
        int length;
    } ways[] = {
        {"read", "\x48\x8b\x00", 3},               /* mov rax, [rax] */
        {"write", "\x48\x89\x00", 3},              /* mov [rax], rax */
        {"add", "\xf0\x48\x01\x00", 4},            /* lock add [rax], rax */
        {"jump", "\xff\xe0", 2},                   /* jmp rax */
        {"call", "\xff\xd0", 2},                   /* call rax */
        {"return", "\x50\xc3", 2},                 /* push rax; ret */
        {"stack", "\x48\x89\xc4\x50", 4},          /* mov rsp, rax; push rax */
        {"base", "\x48\x89\xc5\x48\x8b\x45\x00", 7}, /* mov rbp, rax; mov rax, [rbp] */
        {"copy", "\x48\x89\xc6\xf3\xa4", 5},       /* mov rsi, rax; rep movsb */
        {"fill", "\x48\x89\xc7\xf3\xaa", 5},       /* mov rdi, rax; rep stosb */
        {"exchange", "\x48\x89\xc7\x0f\xc7\x0f", 6}, /* mov rdi, rax; cmpxchg8b [rdi] */
        {"vector", "\x0f\x10\x00", 3},             /* movups xmm0, [rax] */
        {"save", "\x0f\xae\x00", 3},               /* fxsave [rax] */
        {"flush", "\x0f\xae\x38", 3},              /* clflush [rax] */
        {"x87", "\xdb\x28", 2},                    /* fld tbyte [rax] */
    };
    char name[64];
    for (unsigned i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        sprintf(name, "%s %lx", ways[i].name, address);
        attack_with(name, ways[i].bytes, ways[i].length, address, 64, 0);
    }
}

static void calls(unsigned long address)
{
    struct iovec piece = {(void *)address, 16};
    int pipes[2];
    long results[6];
    if (pipe(pipes))
        exit(101);
    errno = 0;
    results[0] = write(pipes[1], (void *)address, 16) == -1 ? errno : 0;
    if (write(pipes[1], "0123456789abcdef", 16) != 16)
        exit(102);
    results[1] = read(pipes[0], (void *)address, 16) == -1 ? errno : 0;
    results[2] = writev(pipes[1], &piece, 1) == -1 ? errno : 0;
    results[3] = writev(pipes[1], (void *)address, 1) == -1 ? errno : 0;
    results[4] = access((void *)address, F_OK) == -1 ? errno : 0;
    results[5] = mmap((void *)(address & ~4095ul), 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED;
    if (address >= 0xffffffff00000000 || address >= 0x7ffffffff000)
        printf("calls %lx: %ld %ld %ld %ld %ld, mapped %d\n", address, results[0], results[1], results[2], results[3],
               results[4], !results[5]);
    else
        printf("calls %lx: %ld %ld %ld %ld %ld\n", address, results[0], results[1], results[2], results[3], results[4]);
    if (!results[5])
        munmap((void *)(address & ~4095ul), 4096);
    close(pipes[0]);
    close(pipes[1]);
}

/* Memory at addresses that mean something to a processor's bus is memory like any other. */
static void own(unsigned long address)
{
    volatile unsigned long *page = mmap((void *)address, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (page == MAP_FAILED) {
        printf("own %lx: none\n", address);
        return;
    }
    int was_zero = page[0] == 0 && page[511] == 0;
    page[0] = address;
    page[511] = ~address;
    printf("own %lx: %d %d\n", address, was_zero, page[0] == address && page[511] == ~address);
    munmap((void *)page, 4096);
    attack_with("after munmap", "\x48\x8b\x00", 3, address, 0, 0);
}

int main(void)
{
    prepare();
    for (unsigned i = 0; i < sizeof addresses / sizeof addresses[0]; i++) {
        one(addresses[i]);
        calls(addresses[i]);
    }
    static const unsigned long owned[] = {0xb8000, 0xf0000, 0xfec00000, 0xfee00000, 0xfffbc000, 0x100000000, 0x3ffff000,
                                          0x10000000000, 0x123400000000, 0x400000000000, 0x6fffc0000000};
    for (unsigned i = 0; i < sizeof owned / sizeof owned[0]; i++)
        own(owned[i]);
    puts("alive");
    return 0;
}
