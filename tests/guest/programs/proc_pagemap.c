/* /proc/self/pagemap: which pages are present, and their kinds; sizes and places that it refuses. (Page frames are
 * shown to root of the host only: they are left out.) */
#include "event_show.h"
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { PAGE = 4096, COUNT = 8 };
static int map;

static void show(const char *name, const char *at)
{
    uint64_t entries[COUNT];
    ssize_t got = pread(map, entries, sizeof entries, (off_t)((uintptr_t)at / PAGE * 8));
    printf("%s: %zd", name, got);
    for (int i = 0; i < got / 8; i++)
        printf(" %d%d%d", (int)(entries[i] >> 63), (int)(entries[i] >> 62 & 1), (int)(entries[i] >> 61 & 1));
    printf("\n");
}

int main(void)
{
    map = open("/proc/self/pagemap", O_RDONLY);
    char *at = mmap(NULL, COUNT * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(at, COUNT * PAGE, MADV_NOHUGEPAGE);
    show("untouched", at);
    at[PAGE] = at[3 * PAGE] = 1;
    show("two of them", at);
    madvise(at + PAGE, PAGE, MADV_DONTNEED);
    show("one is given back", at);
    char *shared = mmap(NULL, COUNT * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared[0] = shared[7 * PAGE] = 1;
    show("shared", shared);
    munmap(at + 4 * PAGE, 4 * PAGE);
    show("half of it is unmapped", at);
    fflush(stdout);
    if (fork() == 0) {
        int own = open("/proc/self/pagemap", O_RDONLY), theirs = map;
        at[2 * PAGE] = 1;
        map = own;
        show("the child", at);
        map = theirs;
        show("its parent", at);
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    char buffer[64];
    SHOW(pread(map, buffer, 7, 0));
    SHOW(pread(map, buffer, 12, 0));
    SHOW(pread(map, buffer, 16, 4));
    SHOW(pread(map, buffer, 0, 8));
    SHOW(pread(map, buffer, 16, (off_t)(1UL << 47) / PAGE * 8));
    SHOW(pread(map, buffer, 16, (off_t)(1UL << 47) / PAGE * 8 - 16));
    SHOW(pread(map, (void *)1, 16, 0));
    SHOW(lseek(map, (off_t)((uintptr_t)at / PAGE * 8), SEEK_SET) > 0);
    SHOW(read(map, buffer, 8));
    SHOW(lseek(map, 0, SEEK_CUR) == (off_t)((uintptr_t)at / PAGE * 8) + 8);
    SHOW(lseek(map, 0, SEEK_END));
    SHOW(open("/proc/1/nothing", O_RDONLY));
    struct stat st;
    SHOW(fstat(map, &st));
    printf("%o %ld\n", st.st_mode, (long)st.st_size);
    return 0;
}
