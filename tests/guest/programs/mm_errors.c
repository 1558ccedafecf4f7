/* The errors of memory calls for bad arguments: alignment, lengths, overflow, holes, flags; in every order. */
#include "file_common.h"
#include <linux/mempolicy.h>

#define PAGE 4096UL
static char *base; /* pages: rw, rw, hole, read-only, none, a file's page shared, private; then nothing */

static void say(long result) { result == -1 ? printf(" %s", strerrorname_np(errno)) : printf(" %s", (unsigned long)result > 4096 ? "ok" : (char[]){'0' + result % 10, 0}); }

static void arrange(int fd)
{
    mmap(base, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    munmap(base + 2 * PAGE, PAGE);
    mprotect(base + 3 * PAGE, PAGE, PROT_READ);
    mprotect(base + 4 * PAGE, PAGE, PROT_NONE);
    mmap(base + 5 * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    mmap(base + 6 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    munmap(base + 7 * PAGE, PAGE);
}

static const unsigned long lengths[] = {0, 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE, 7 * PAGE, 1UL << 46, 1UL << 47, -PAGE, -1UL, 1UL << 63};

int main(void)
{
    unsigned char pages[16];
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    int fd = open("file", O_RDWR | O_CREAT, 0600), reader = open("file", O_RDONLY), writer = open("file", O_WRONLY), path = open("file", O_PATH), dir = open(".", O_RDONLY);
    int two[2], append = open("file", O_RDWR | O_APPEND), null = open("/dev/null", O_RDWR), proc = open("/proc/self/status", O_RDONLY), event = memfd_create("m", 0);
    pipe(two);
    ftruncate(fd, 3 * PAGE);
    base = mmap(NULL, 64 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + 16 * PAGE;
    munmap(base - 16 * PAGE, 64 * PAGE);
    long starts[] = {0, (long)base, (long)base + 1, (long)base + PAGE, (long)base + 2 * PAGE, (long)base + 3 * PAGE, (long)base + 5 * PAGE, (long)base + 6 * PAGE, (long)base + 7 * PAGE, -4096, -4097, 1L << 47};
    static const char *const names[] = {"munmap", "mprotect", "mprotect w", "madvise 4", "madvise 8", "madvise 0", "madvise 9", "madvise 99", "madvise 22", "madvise 23", "msync s", "msync a", "msync as", "msync i", "msync 8",
                                        "mincore", "mlock", "munlock", "mlock2", "mlock2 bad", "mbind", "mseal bad"};
    for (unsigned call = 0; call < sizeof names / sizeof *names; call++)
        for (unsigned s = 0; s < sizeof starts / sizeof *starts; s++) {
            printf("%s %d:", names[call], s);
            for (unsigned l = 0; l < sizeof lengths / sizeof *lengths; l++) {
                void *a = (void *)starts[s];
                unsigned long n = lengths[l];
if (n >> 46 && (unsigned long)a + n > (unsigned long)a) /* discards or protects memory that the program needs */
                    continue;
                long r;
                arrange(fd);
                errno = 0;
                switch (call) {
                case 0: r = munmap(a, n); break;
                case 1: r = mprotect(a, n, PROT_READ); break;
                case 2: r = mprotect(a, n, PROT_READ | PROT_WRITE); break;
                case 3: r = madvise(a, n, MADV_DONTNEED); break;
                case 4: r = madvise(a, n, MADV_FREE); break;
                case 5: r = madvise(a, n, MADV_NORMAL); break;
                case 6: r = madvise(a, n, MADV_REMOVE); break;
                case 7: r = madvise(a, n, 99); break;
                case 8: r = madvise(a, n, MADV_POPULATE_READ); break;
                case 9: r = madvise(a, n, MADV_POPULATE_WRITE); break;
                case 10: r = msync(a, n, MS_SYNC); break;
                case 11: r = msync(a, n, MS_ASYNC); break;
                case 12: r = msync(a, n, MS_ASYNC | MS_SYNC); break;
                case 13: r = msync(a, n, MS_INVALIDATE); break;
                case 14: r = msync(a, n, 8); break;
                case 15: r = syscall(SYS_mincore, a, n, pages); break;
                case 16: r = mlock(a, n); munlock(base, 7 * PAGE); break;
                case 17: r = munlock(a, n); break;
                case 18: r = syscall(SYS_mlock2, a, n, 1); munlock(base, 7 * PAGE); break;
                case 19: r = syscall(SYS_mlock2, a, n, 2); break;
                case 20: r = syscall(SYS_mbind, a, n, MPOL_DEFAULT, NULL, 0, 0); break;
                default: r = syscall(462, a, n, 1); break;
                }
                say(r);
            }
            printf("\n");
        }
    /* mremap: where from, how much, to how much, how, where to. */
    static const unsigned long sizes[] = {0, 1, PAGE, 2 * PAGE, 3 * PAGE, 1UL << 47};
    for (int from = 0; from < 9; from++)
        for (int flags = 0; flags < 9; flags++) {
            printf("mremap %d %d:", from, flags);
            for (unsigned o = 0; o < ((flags & 3) == 3 || flags == 8 ? 3 : 6); o++) /* several areas at once: only since 6.17 */
                for (unsigned n = 0; n < 6; n++) {
                    arrange(fd);
                    mmap(base + 8 * PAGE, 40 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
                    char *to = base + 20 * PAGE;
                    if (flags == 8)
                        to = base + PAGE;
                    errno = 0;
                    void *r = mremap(from == 8 ? base + 1 : base + from * PAGE, sizes[o], sizes[n], flags == 8 ? 3 : flags, to);
                    say(r == MAP_FAILED ? -1 : 0);
                    if (r != MAP_FAILED && (char *)r != to && ((char *)r < base || (char *)r > base + 48 * PAGE))
                        munmap(r, sizes[n]);
                    munmap(base, 48 * PAGE);
                }
            printf("\n");
        }
    arrange(fd);
    /* mmap: descriptors, kinds and flags, lengths, offsets, protections. */
    int fds[] = {-1, 99, fd, reader, writer, path, dir, two[0], append, null, proc, event};
    int kinds[] = {0, MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE, 4, MAP_SHARED | MAP_ANONYMOUS, MAP_PRIVATE | MAP_ANONYMOUS, MAP_SHARED_VALIDATE | MAP_ANONYMOUS, MAP_SHARED_VALIDATE | 1 << 26,
                   MAP_SHARED_VALIDATE | MAP_POPULATE, MAP_SHARED_VALIDATE | MAP_FIXED_NOREPLACE, MAP_SHARED | 1 << 26, MAP_PRIVATE | MAP_GROWSDOWN, MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, MAP_PRIVATE | MAP_DENYWRITE | MAP_EXECUTABLE, MAP_ANONYMOUS};
    unsigned long sizes2[] = {0, PAGE, 1UL << 47, -1UL};
    long offsets[] = {0, 1, PAGE, -4096L};
    int prots[] = {PROT_READ, PROT_WRITE, PROT_EXEC, 0x80};
    for (unsigned f = 0; f < 12; f++)
        for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            printf("mmap %d %x:", f, kinds[k]);
            for (unsigned i = 0; i < 4 * 4 * 4; i++) {
                unsigned long n = sizes2[i % 4];
                errno = 0;
                void *r = mmap(NULL, n, prots[i / 16], kinds[k], fds[f], offsets[i / 4 % 4]);
                say(r == MAP_FAILED ? -1 : 0);
                if (r != MAP_FAILED)
                    munmap(r, n);
            }
            printf("\n");
        }
    static const long places[] = {0, 1, 4096, 1L << 47, (1L << 47) - 4096, -4096, -8191};
    for (int p = 0; p < 8; p++)
        for (int how = 0; how < 3; how++) {
            void *at = p < 7 ? (void *)places[p] : base;
            if (p == 2 && how)
                continue; /* root may, where no minimum is set */
            void *r = mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | (how == 1 ? MAP_FIXED : how == 2 ? MAP_FIXED_NOREPLACE : 0), -1, 0);
            printf("place %d %d:", p, how);
            say(p == 0 && how ? 0 : r == MAP_FAILED ? -1 : 0);
            printf("\n");
        }
    return 0;
}
