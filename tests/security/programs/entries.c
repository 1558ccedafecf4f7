/* The other doors of an x86-64 kernel: int 0x80, sysenter, syscall32, x32 numbers, the vsyscall page.
 *
 * Each child prints its result; the host's kernel must not answer: getpid would give the host's number, and an open
 * of a host path would succeed. */
#include "hostile.h"

static void in_child(const char *name, long (*door)(void))
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        long got = door();
        _exit(got == -ENOSYS ? 10 : got < 0 ? 11 : got == getpid() ? 12 : 13);
    }
    int status = await(pid, 2000);
    if (WIFSIGNALED(status))
        printf("%s: signal\n", name);
    else
        printf("%s: %d\n", name, WEXITSTATUS(status));
}

static long int80(void)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

static long int80_exit(void)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(1L), "b"(77L) : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

static long sysenter(void)
{
    long result;
    __asm__ volatile("sysenter" : "=a"(result) : "a"(20L) : "memory", "rcx", "rdx");
    return result;
}

static long x32(void) { return raw(0x40000000 + SYS_getpid, 0, 0, 0, 0, 0, 0); }
static long x32_high(void) { return raw(0x40000000 + 520, 0, 0, 0, 0, 0, 0); }
static long negative(void) { return raw(-1, 0, 0, 0, 0, 0, 0); }
static long high_half(void) { return raw(0x100000000L + SYS_getpid, 0, 0, 0, 0, 0, 0); }
static long uretprobe(void) { return raw(335, 0, 0, 0, 0, 0, 0); }
static long uprobe(void) { return raw(336, 0, 0, 0, 0, 0, 0); }

static long vsyscall_time(void)
{
    time_t (*call)(time_t *) = (void *)0xffffffffff600400UL;
    time_t real = time(NULL), got = call(NULL);
    return got >= real && got - real < 5 ? -ENOSYS : 1; /* emulated right, or a fault */
}

static long vsyscall_write(void)
{
    int (*call)(struct timeval *, void *) = (void *)0xffffffffff600000UL;
    return call((struct timeval *)INFO_BASE, NULL) == 0 ? 1 : -1; /* must not write where we may not */
}

/* A far jump into 32-bit code: the i386 compat entry from there. */
static long compat(void)
{
    char *low = mmap((void *)0x20000000, 8192, 7, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    static const unsigned char code[] = {0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0x0f, 0x05, 0x0f, 0x34, 0xf4};
    if (low == MAP_FAILED)
        return -1;
    memcpy(low, code, sizeof code);
    struct { uint32_t offset; uint16_t selector; } __attribute__((packed)) far = {0x20000000, 0x23};
    __asm__ volatile("mov %1, %%rsp; ljmp *%0" : : "m"(far), "r"(low + 8000) : "memory");
    return 1;
}

int main(void)
{
    hold_sigchld();
    in_child("int80", int80);
    in_child("int80 exit", int80_exit);
    in_child("sysenter", sysenter);
    in_child("x32", x32);
    in_child("x32 high", x32_high);
    in_child("negative", negative);
    in_child("high half", high_half);
    in_child("uretprobe", uretprobe);
    in_child("uprobe", uprobe);
    in_child("vsyscall time", vsyscall_time);
    in_child("vsyscall write", vsyscall_write);
    in_child("compat", compat);
    return 0;
}
