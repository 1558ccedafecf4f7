/* mseal(2): the results of mremap, munmap, mprotect, mmap and madvise for areas that are sealed, or partly so. */
#include "file_common.h"
#include <sys/mman.h>
#include <sys/syscall.h>

#define P 4096L
static char *at;

static long seal(void *start, long length) { return syscall(462, start, length, 0L); }
static long move(char *from, long old, long new, int flags, char *to)
{
    char *r = mremap(from, old, new, flags, to);
    return r == MAP_FAILED ? -1 : r - at;
}

int main(void)
{
    at = mmap((void *)0x10000000, 16 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    T(seal(at + 4 * P, 4 * P));
    T(seal(at + 4 * P, 4 * P));
    T(seal(at + 1, P));
    T(syscall(462, at, P, 1L));
    T(seal(at, 17 * P));
    T(seal(at, 0));
    puts("sealed: every change of the area itself");
    T(move(at + 4 * P, P, P, 0, 0));
    T(move(at + 4 * P, P, P, MREMAP_MAYMOVE, 0));
    T(move(at + 4 * P, 4 * P, P, 0, 0));
    T(move(at + 4 * P, P, 2 * P, 0, 0));
    T(move(at + 4 * P, 4 * P, 8 * P, MREMAP_MAYMOVE, 0));
    T(move(at + 4 * P, 0, P, MREMAP_MAYMOVE, 0));
    T(move(at + 4 * P, 9 * P, 9 * P, MREMAP_MAYMOVE, 0));
    T(move(at + 4 * P, P, P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0));
    T(move(at + 4 * P, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, at + 64 * P));
    T(move(at + 4 * P, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, at + 4 * P));
    T(move(at + 4 * P, P, P, MREMAP_FIXED, at + 64 * P));
    T(move(at + 4 * P, P, 0, MREMAP_MAYMOVE, 0));
    T(move(at + 4 * P + 1, P, P, MREMAP_MAYMOVE, 0));
    puts("beside it");
    T(move(at + 3 * P, P, P, 0, 0));
    T(move(at + 3 * P, P, 2 * P, 0, 0));
    T(move(at + 3 * P, 2 * P, 2 * P, 0, 0));
    T(move(at + 3 * P, 2 * P, P, 0, 0));
    T(move(at + 3 * P, 3 * P, P, MREMAP_MAYMOVE, 0));
    puts("onto it");
    T(move(at, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, at + 5 * P));
    T(move(at, P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, at + 7 * P));
    puts("other calls");
    T(munmap(at + 4 * P, P));
    T(munmap(at, 16 * P));
    T(munmap(at + 3 * P, 2 * P));
    T(mprotect(at + 4 * P, P, PROT_READ));
    T(mprotect(at + 3 * P, 2 * P, PROT_READ));
    T(mprotect(at + 4 * P, P, PROT_READ | PROT_WRITE));
    T(mmap(at + 4 * P, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? -1 : 0);
    T(mmap(at + 4 * P, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED ? -1 : 0);
    T(madvise(at + 4 * P, P, MADV_DONTNEED));
    T(madvise(at + 4 * P, P, MADV_WILLNEED));
    T(madvise(at + 4 * P, P, MADV_DONTFORK));
    at[4 * P] = 1;
    puts("of memory that cannot be written");
    char *read_only = mmap((void *)0x11000000, 4 * P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    T(seal(read_only, P));
    T(madvise(read_only, P, MADV_DONTNEED));
    T(madvise(read_only, P, MADV_FREE));
    T(madvise(read_only + P, P, MADV_DONTNEED));
    T(madvise(read_only, 2 * P, MADV_DONTNEED));
    return 0;
}
