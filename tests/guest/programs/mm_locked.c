/* Locked memory: its accounting, its limits, the calls that it forbids; and areas that grow downwards. */
#include "file_common.h"

#define PAGE 4096UL

static void field(const char *file, const char *name, void *at)
{
    char line[512];
    int is_there = !at;
    FILE *f = fopen(file, "r");
    while (fgets(line, sizeof line, f)) {
        unsigned long start, end;
        if (at && sscanf(line, "%lx-%lx ", &start, &end) == 2)
            is_there = start <= (unsigned long)at && (unsigned long)at < end;
        if (is_there && !strncmp(line, name, strlen(name))) {
            if (!strcmp(name, "VmFlags"))
                printf("VmFlags lo %d lf %d gd %d\n", !!strstr(line, " lo"), !!strstr(line, " lf"), !!strstr(line, " gd"));
            else
                printf("%s\n", strtok(line, "\n"));
            break;
        }
    }
    fclose(f);
}

static void *map(int pages, int flags) { return mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0); }
static long where(void *p) { return p == MAP_FAILED ? -1 : 0; }
static void limit(unsigned long pages) { setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){pages * PAGE, 64 * PAGE}); }
#define STATUS field("/proc/self/status", "VmLck", NULL)

static void locked(void)
{
    limit(8);
    char *a = map(8, 0), *b;
    T(mlock(a, 3 * PAGE));
    STATUS;
    field("/proc/self/smaps", "Locked", a);
    field("/proc/self/smaps_rollup", "Locked", NULL);
    field("/proc/self/smaps", "VmFlags", a);
    field("/proc/self/smaps", "VmFlags", a + 3 * PAGE);
    T(mlock(a + PAGE, 2 * PAGE)); /* the same again */
    T(mlock(a + 1, PAGE));
    STATUS;
    T(munlock(a + PAGE, PAGE));
    STATUS;
    T(syscall(SYS_mlock2, a + 4 * PAGE, 2 * PAGE, 1));
    STATUS;
    field("/proc/self/smaps", "VmFlags", a + 4 * PAGE);
    T(mlock(a, 8 * PAGE));
    STATUS;
    T(where(map(1, MAP_LOCKED)));
    munlock(a, 8 * PAGE);
    b = map(4, MAP_LOCKED);
    T(where(b));
    STATUS;
    T(where(map(5, MAP_LOCKED)));
    T(where(mremap(b, 4 * PAGE, 9 * PAGE, MREMAP_MAYMOVE)));
    b = mremap(b, 4 * PAGE, 6 * PAGE, MREMAP_MAYMOVE);
    T(where(b));
    STATUS;
    T(madvise(b, PAGE, MADV_DONTNEED));
    T(madvise(b, PAGE, MADV_FREE));
    T(madvise(b, PAGE, MADV_COLD));
    T(madvise(b, PAGE, MADV_PAGEOUT));
    T(madvise(b, PAGE, 24)); /* DONTNEED_LOCKED */
    T(madvise(b, PAGE, MADV_WILLNEED));
    T(madvise(a, PAGE, MADV_DONTNEED));
    T(msync(b, PAGE, MS_INVALIDATE | MS_SYNC));
    T(msync(b, PAGE, MS_SYNC));
    T(msync(a, PAGE, MS_INVALIDATE));
    b = mremap(b, 6 * PAGE, 2 * PAGE, 0);
    STATUS;
    T(munmap(b, PAGE));
    STATUS;
    /* up to a hole */
    munmap(a + 4 * PAGE, PAGE);
    T(mlock(a + 3 * PAGE, 3 * PAGE));
    STATUS;
    T(munlock(a + 3 * PAGE, 3 * PAGE));
    STATUS;
    if (fork() == 0) {
        STATUS;
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    T(mlock(a, -1UL));
    T(mlock((void *)-4096L, 8192));
    T(mlock(a, 0));
    limit(0);
    T(mlock(a, PAGE));
    T(mlock(a, 0));
    T(munlock(b + PAGE, PAGE));
    T(where(map(1, MAP_LOCKED)));
    T(mlockall(MCL_CURRENT));
    T(mlockall(MCL_FUTURE));
    T(mlockall(0));
    T(mlockall(MCL_ONFAULT));
    T(mlockall(8));
    limit(8);
    T(mlockall(MCL_CURRENT));
    T(mlockall(MCL_FUTURE));
    T(where(map(4, 0)));
    STATUS;
    T(where(map(5, 0)));
    T(sbrk(6 * PAGE) == (void *)-1);
    T(where(mmap(NULL, PAGE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0)));
    STATUS;
    T(mlockall(MCL_FUTURE | MCL_ONFAULT));
    b = map(1, 0);
    field("/proc/self/smaps", "VmFlags", b);
    if (fork() == 0) {
        T(where(map(20, 0)));
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    T(munlockall());
    STATUS;
    T(where(map(20, 0)));
}

static long touch(char *at)
{
    fflush(stdout);
    pid_t pid = fork();
    int status;
    if (pid == 0) {
        *(volatile char *)at = 1;
        _exit(0);
    }
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void growing(void)
{
    char *room = mmap(NULL, 2048 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *top = room + 2046 * PAGE;
    munmap(room, 2048 * PAGE);
    T(mmap(top, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0) == top);
    field("/proc/self/smaps", "VmFlags", top);
    T(touch(top - 8));
    T(touch(top - 300 * PAGE));
    T(touch(top + 2 * PAGE));
    top[-8] = 7;
    field("/proc/self/smaps", "Size", top);
    top[-5 * PAGE] = 8;
    field("/proc/self/smaps", "Size", top);
    T(top[-8] + top[-5 * PAGE]);
    /* Another area below it stops its growth. */
    mmap(top - 600 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    T(touch(top - 300 * PAGE));
    T(touch(top - 344 * PAGE));
    T(touch(top - 343 * PAGE));
    mprotect(top - 600 * PAGE, PAGE, PROT_NONE);
    T(touch(top - 500 * PAGE));
    setrlimit(RLIMIT_STACK, &(struct rlimit){100 * PAGE, RLIM_INFINITY});
    T(touch(top - 98 * PAGE));
    T(touch(top - 99 * PAGE));
    T(mprotect(top, PAGE, PROT_READ));
    T(touch(top - 98 * PAGE));
    mprotect(top - 5 * PAGE, 7 * PAGE, PROT_READ);
    T(touch(top - 50 * PAGE));
}

int main(void)
{
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    growing();
    if (setgid(65534) || setuid(65534))
        return 1;
    locked();
    return 0;
}
