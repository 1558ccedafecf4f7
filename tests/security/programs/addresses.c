/* Memory calls on cloche's own memory in a guest: stub, info page, vDSO, region.  All must be refused. */
#include "hostile.h"

static int failures;

static void refused(const char *what, uint64_t at, long result)
{
    long e = -result;
    if (result >= 0 || result < -4095 || (e != EINVAL && e != ENOMEM && e != EFAULT && e != EEXIST && e != EPERM && e != EACCES)) {
        printf("%s at %lx: %ld\n", what, (long)at, result);
        failures++;
    }
}

int main(void)
{
    static const uint64_t at[] = {STUB_BASE, STUB_BASE + 0x1000, INFO_BASE, VDSO_BASE, VDSO_BASE + 0x4000, REGION_BASE, REGION_BASE + SLOT_SIZE, REGION_BASE + 0x7fff000, MAX_ADDRESS, MAX_ADDRESS - 0x1000, 0x7ffffffff000, 0x800000000000, 0xffff800000000000, 0xffffffffff600000, -4096UL};
    char *page = mmap(NULL, 0x10000, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int file = open("/tmp/addresses", O_RDWR | O_CREAT | O_TRUNC, 0600);
    ftruncate(file, 1 << 20);
    for (unsigned i = 0; i < sizeof at / sizeof *at; i++) {
        uint64_t a = at[i];
        uint64_t size = a == MAX_ADDRESS - 0x1000 ? 0x2000 : 0x1000;
        for (int prot = 0; prot < 8; prot += 7) {
            refused("mmap fixed", a, raw(SYS_mmap, a, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
            refused("mmap noreplace", a, raw(SYS_mmap, a, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | 0x100000, -1, 0));
            refused("mmap file", a, raw(SYS_mmap, a, size, prot & 3, MAP_PRIVATE | MAP_FIXED, file, 0));
            refused("mmap shared", a, raw(SYS_mmap, a, size, prot & 3, MAP_SHARED | MAP_FIXED, file, 0));
            refused("mprotect", a, raw(SYS_mprotect, a, size, prot, 0, 0, 0));
        }
        refused("mmap of everything to it", a, raw(SYS_mmap, 0x10000, a - 0x10000 + size, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
        refused("mremap from", a, raw(SYS_mremap, a, 0x1000, 0x2000, 1, 0, 0));
        refused("mremap to", a, raw(SYS_mremap, (long)page, 0x2000, size, 3, a, 0));
        refused("mremap move", a, raw(SYS_mremap, a, 0x1000, 0x1000, 3, (long)page, 0));
        refused("madvise dontneed", a, raw(SYS_madvise, a, size, 4, 0, 0, 0));
        refused("madvise remove", a, raw(SYS_madvise, a, size, 9, 0, 0, 0));
        refused("mlock", a, raw(SYS_mlock, a, size, 0, 0, 0, 0));
        refused("msync", a, raw(SYS_msync, a, size, 4, 0, 0, 0));
        refused("remap_file_pages", a, raw(SYS_remap_file_pages, a, size, 0, 0, 0, 0));
        /* munmap of unmapped memory succeeds on Linux; beyond the end it does not. No mapping may vanish: below. */
        raw(SYS_munmap, a, size, 0, 0, 0, 0);
        long brk = raw(SYS_brk, a, 0, 0, 0, 0, 0);
        if (brk == (long)a) {
            printf("brk at %lx\n", (long)a);
            failures++;
        }
        /* The sentry must not write where this program could not. */
        refused("read into", a, raw(SYS_pread64, file, a, 64, 0, 0, 0) == 64 && a != MAX_ADDRESS - 0x1000 && (a & ~0xffffUL) == STUB_BASE ? 1 : -EFAULT);
    }
    raw(SYS_munmap, MAX_ADDRESS - 0x1000, 1UL << 40, 0, 0, 0, 0);
    raw(SYS_munmap, STUB_BASE - (1UL << 33), (1UL << 34), 0, 0, 0, 0);
    raw(SYS_munmap, 0x7ffe00000000, 0x1fffff000, 0, 0, 0, 0);
    if (getppid() <= 0)
        failures++;
    printf("failures %d\n", failures);
    fflush(stdout);
    /* And all memory below the limit may be unmapped: only this process suffers. */
    pid_t pid = fork();
    if (pid == 0) {
        raw(SYS_munmap, 0x10000, MAX_ADDRESS - 0x10000, 0, 0, 0, 0);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    printf("signaled %d\n", WIFSIGNALED(status));
    return failures != 0;
}
