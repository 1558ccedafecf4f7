/* Calls about many areas at once: how far they come at an error, and that no range is free meanwhile. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define MANY 3000 /* more than are changed at once */

/* The protections of [start, start + pages), runs of equal ones as "count x prot". */
static void show(const char *what, char *start, size_t pages)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512], last[8] = "", mode[8];
    size_t run = 0;
    char *at = start, *end = start + pages * PAGE;
    printf("%s:", what);
    while (fgets(line, sizeof line, f)) {
        unsigned long low, high;
        sscanf(line, "%lx-%lx %7s", &low, &high, mode);
        char *from = (char *)low, *to = (char *)high;
        if (to <= at || from >= end)
            continue;
        if (from > at) {
            if (run)
                printf(" %zu %s", run, last);
            printf(" %zu free", (size_t)(from - at) / PAGE);
            run = 0;
            at = from;
        }
        if (to > end)
            to = end;
        if (run && strcmp(mode, last)) {
            printf(" %zu %s", run, last);
            run = 0;
        }
        strcpy(last, mode);
        run += (to - at) / PAGE;
        at = to;
    }
    if (run)
        printf(" %zu %s", run, last);
    if (at < end)
        printf(" %zu free", (size_t)(end - at) / PAGE);
    printf("\n");
    fclose(f);
}

static char *areas(size_t pages)
{
    char *start = mmap(0, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    munmap(start, PAGE);
    munmap(start + (pages + 1) * PAGE, PAGE);
    start += PAGE;
    for (size_t i = 0; i < pages; i += 2)
        mprotect(start + i * PAGE, PAGE, PROT_READ | PROT_WRITE);
    for (size_t i = 0; i < pages; i += 2)
        start[i * PAGE] = 1 + i % 100;
    return start;
}

static int sum(char *start, size_t pages)
{
    int found = 0;
    for (size_t i = 0; i < pages; i++)
        found += start[i * PAGE];
    return found;
}

#define SAY(call) (errno = 0, (long)(call) < 0 ? strerror(errno) : "ok")

static char *shared;
static volatile int is_over;

static void *mapper(void *unused)
{
    /* Places of the kernel's choice never lie in the range that is being replaced. */
    while (!is_over) {
        char *p = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p >= shared && p < shared + MANY * PAGE) {
            printf("inside\n");
            exit(1);
        }
        *p = 1;
        munmap(p, PAGE);
    }
    return unused;
}

int main(void)
{
    char *p = areas(MANY);
    printf("protect %s\n", SAY(mprotect(p, MANY * PAGE, PROT_READ)));
    show("all", p, MANY);
    printf("%d\n", sum(p, MANY));
    munmap(p + 2500 * PAGE, PAGE);
    printf("protect with a hole: %s\n", SAY(mprotect(p, MANY * PAGE, PROT_READ | PROT_WRITE)));
    show("up to the hole", p, MANY);
    printf("from the hole: %s\n", SAY(mprotect(p + 2500 * PAGE, 2 * PAGE, PROT_NONE)));
    printf("beyond the end: %s\n", SAY(mprotect(p + (MANY - 1) * PAGE, 2 * PAGE, PROT_NONE)));
    show("the last one", p + 2990 * PAGE, 10);
    munmap(p, MANY * PAGE);

    int fd = open("/proc/self/exe", O_RDONLY);
    p = areas(20);
    mmap(p + 10 * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    printf("a file that must not be written: %s\n", SAY(mprotect(p, 20 * PAGE, PROT_READ | PROT_WRITE)));
    show("up to the file", p, 20);
    munmap(p, 20 * PAGE);

    static const int bits[] = {0x1000000, 0x2000000, 0x3000000, 0x4000000, 0x8000000, 8, 16, 0x10000000};
    p = areas(8);
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        printf("prot %#x: %s", bits[i], SAY(mprotect(p, PAGE, PROT_READ | bits[i])));
        printf(", %s", SAY(mprotect(p, 0, PROT_READ | bits[i])));
        printf(", %s\n", SAY(mprotect(p - PAGE, 3 * PAGE, PROT_READ | bits[i])));
    }
    char *grows = mmap(p + 4 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0);
    printf("grows down: %s\n", SAY(mprotect(grows + 2 * PAGE, PAGE, PROT_READ | PROT_GROWSDOWN)));
    show("from its start", p, 8);
    printf("grows up: %s\n", SAY(mprotect(grows, PAGE, PROT_READ | PROT_GROWSUP)));
    munmap(p, 8 * PAGE);

    p = areas(MANY);
    printf("dontneed %s", SAY(madvise(p, MANY * PAGE, MADV_DONTNEED)));
    mprotect(p, MANY * PAGE, PROT_READ);
    printf(" %d\n", sum(p, MANY));
    munmap(p, MANY * PAGE);
    p = areas(MANY);
    munmap(p + 1001 * PAGE, PAGE);
    printf("dontfork with a hole: %s\n", SAY(madvise(p, MANY * PAGE, MADV_DONTFORK)));
    fflush(stdout);
    if (!fork()) {
        show("in the child", p, MANY);
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    printf("dofork: %s\n", SAY(madvise(p + 1500 * PAGE, 1500 * PAGE, MADV_DOFORK)));
    fflush(stdout);
    if (!fork()) {
        mprotect(p + 1500 * PAGE, 1500 * PAGE, PROT_READ);
        show("in the child", p, MANY);
        printf("%d\n", sum(p + 1500 * PAGE, 1500));
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    printf("populate with a hole: %s\n", SAY(madvise(p, 1500 * PAGE, MADV_POPULATE_READ)));
    printf("lock: %s\n", SAY(mlock(p + 996 * PAGE, PAGE)));
    printf("lock with a hole: %s\n", SAY(mlock(p + 1000 * PAGE, 3 * PAGE)));
    printf("unlock with a hole: %s\n", SAY(munlock(p, MANY * PAGE)));
    printf("seal with a hole: %s\n", SAY(syscall(462, p, MANY * PAGE, 0L)));
    printf("unmap %s\n", SAY(munmap(p, MANY * PAGE)));
    show("unmapped", p, MANY);

    pthread_t other;
    for (int i = 0; i < 3; i++) {
        shared = areas(MANY);
        is_over = 0;
        pthread_create(&other, 0, mapper, 0);
        char *q = mmap(shared, MANY * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        printf("replaced %d %d\n", q == shared, sum(shared, MANY));
        is_over = 1;
        pthread_join(other, 0);
        show("new", shared, MANY);
        munmap(shared, MANY * PAGE);
    }
    p = areas(MANY);
    char *q = mmap(0, MANY * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    q[7 * PAGE] = 9;
    printf("moved %d", mremap(q, MANY * PAGE, MANY * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p) == p);
    printf(" %d\n", sum(p, MANY));
    show("moved", p, MANY);
    return 0;
}
