/* Processes that make calls inside the stub without end, all of which the sentry has to refuse; another one is served. */
#include "hostile.h"

/* A syscall instruction of the stub behind which it returns to its caller (at the end of a clone). */
static const unsigned char bytes[] = {0x0f, 0x05, 0x48, 0x85, 0xc0, 0x74};
static const unsigned char after[] = {0x41, 0x5d, 0x41, 0x5c, 0x5b, 0xc3};

static long inside(const char *gadget, long number)
{
    long result;
    register long r10 __asm__("r10") = 1;
    register long r8 __asm__("r8") = 1;
    register long r9 __asm__("r9") = 1;
    __asm__ volatile("lea 1f(%%rip), %%r11; push %%r11; push %%rbx; push %%r12; push %%r13; jmp *%1; 1:"
                     : "=a"(result)
                     : "b"(gadget), "a"(number), "D"(1L), "S"(1L), "d"(1L), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

int main(int argc, char **argv)
{
    const char *gadget = NULL, *end = (const char *)STUB_BASE + 0x1800;
    for (const char *at = (const char *)STUB_BASE; (at = memmem(at, end - at, bytes, sizeof bytes)); at++)
        if (!memcmp(at + 7, after, sizeof after))
            gadget = at;
    if (!gadget || inside(gadget, SYS_mmap) != -EPERM) {
        puts("no way in");
        return 1;
    }
    for (int i = 0; i < atoi(argv[1]); i++)
        if (!fork())
            for (;;)
                inside(gadget, SYS_mmap);
    for (int i = 0; i < 500; i++) {
        struct stat st;
        syscall(SYS_getppid);
        stat("/usr", &st);
    }
    puts("served meanwhile");
    fflush(stdout);
    for (;;)
        pause();
}
