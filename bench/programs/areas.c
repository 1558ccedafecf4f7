/* areas [ROW ...]: calls about many areas of memory, each row once.  Prints "row nanoseconds"; of a row that makes many
 * calls the quickest hundred counts, per call: others use the machine, too.  Areas are pages of alternating protection,
 * so that none merges with the next. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, BOTH = PROT_READ | PROT_WRITE, BATCH = 100 };

static volatile sig_atomic_t handled;

static long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static long best, began;
static int turns;

/* At the start of each of many calls, and behind the last: notes how long the quickest hundred took. */
static void turn(int is_first)
{
    long now = now_ns();
    if (is_first) {
        best = -1;
        turns = 0;
    } else if (++turns % BATCH == 0) {
        if (best < 0 || now - began < best)
            best = now - began;
    } else {
        return;
    }
    began = now_ns();
}

static void need(int is_good, const char *what)
{
    if (!is_good) {
        perror(what);
        exit(1);
    }
}

static void on_signal(int signo)
{
    handled += signo != 0;
}

/* `count` areas of a page each. */
static char *make_areas(long count)
{
    char *at = mmap(NULL, count * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    need(at != MAP_FAILED, "mmap");
    for (long i = 1; i < count; i += 2)
        need(mprotect(at + i * PAGE, PAGE, PROT_READ) == 0, "mprotect");
    return at;
}

static long forks(long count, int rounds)
{
    char *areas = make_areas(count);
    best = -1;
    for (int i = 0; i < rounds; i++) {
        long start = now_ns();
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        need(child > 0 && waitpid(child, NULL, 0) == child, "fork");
        long spent = now_ns() - start;
        if (best < 0 || spent < best)
            best = spent;
    }
    munmap(areas, count * PAGE);
    return best;
}

static long fork_1k(void) { return forks(1000, 40); }
static long fork_10k(void) { return forks(10000, 20); }
static long fork_60k(void) { return forks(60000, 8); }

static long split(void)
{
    char *at = mmap(NULL, 10000L * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    need(at != MAP_FAILED, "mmap");
    turn(1);
    for (long i = 1; i < 10000; i += 2) {
        need(mprotect(at + i * PAGE, PAGE, PROT_READ) == 0, "mprotect");
        turn(0);
    }
    munmap(at, 10000L * PAGE);
    return best / BATCH;
}

static long munmap_each(void)
{
    char *at = make_areas(10000);
    turn(1);
    for (long i = 0; i < 10000; i++) {
        need(munmap(at + i * PAGE, PAGE) == 0, "munmap");
        turn(0);
    }
    return best / BATCH;
}

static long munmap_all_once(void)
{
    char *at = make_areas(10000);
    long start = now_ns();
    need(munmap(at, 10000L * PAGE) == 0, "munmap");
    return now_ns() - start;
}

static long munmap_touched_once(void)
{
    char *at = mmap(NULL, 10000L * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(at != MAP_FAILED, "mmap");
    memset(at, 1, 10000L * PAGE);
    for (long i = 1; i < 10000; i += 2)
        need(mprotect(at + i * PAGE, PAGE, PROT_READ) == 0, "mprotect");
    long start = now_ns();
    need(munmap(at, 10000L * PAGE) == 0, "munmap");
    return now_ns() - start;
}

static long mprotect_all_once(void)
{
    char *at = make_areas(10000);
    long start = now_ns();
    need(mprotect(at, 10000L * PAGE, PROT_NONE) == 0, "mprotect");
    long spent = now_ns() - start;
    munmap(at, 10000L * PAGE);
    return spent;
}

static long madvise_all_once(void)
{
    char *at = make_areas(10000);
    long start = now_ns();
    need(madvise(at, 10000L * PAGE, MADV_DONTNEED) == 0, "madvise");
    long spent = now_ns() - start;
    munmap(at, 10000L * PAGE);
    return spent;
}

/* A page's protection to and fro, with a signal to oneself that is handled (or that is none) before each. */
static long signals(int signo)
{
    enum { TURNS = 5000 };
    char *page = mmap(NULL, PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct sigaction action = {.sa_handler = on_signal};
    long tid = syscall(SYS_gettid);
    sigaction(SIGUSR1, &action, NULL);
    handled = 0;
    turn(1);
    for (int i = 0; i < TURNS; i++) {
        if (signo >= 0)
            need(syscall(SYS_tkill, tid, signo) == 0, "tkill");
        need(mprotect(page, PAGE, i & 1 ? BOTH : PROT_READ) == 0, "mprotect");
        turn(0);
    }
    need(signo <= 0 || handled == TURNS, "a handler");
    munmap(page, PAGE);
    return best / BATCH;
}

static long tkill_mprotect(void) { return signals(SIGUSR1); }
static long tkill_0_mprotect(void) { return signals(0); }
static long mprotect_page(void) { return signals(-1); }

static long tkill_handled(void)
{
    enum { TURNS = 5000 };
    struct sigaction action = {.sa_handler = on_signal};
    long tid = syscall(SYS_gettid);
    sigaction(SIGUSR1, &action, NULL);
    turn(1);
    for (int i = 0; i < TURNS; i++) {
        syscall(SYS_tkill, tid, SIGUSR1);
        turn(0);
    }
    return best / BATCH;
}

static long mremap_grow(void)
{
    char *at = mmap(NULL, 1024 * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(at != MAP_FAILED && munmap(at + PAGE, 1023 * PAGE) == 0, "mmap");
    turn(1);
    for (int i = 0; i < 2000; i++) {
        need(mremap(at, PAGE, 64 * PAGE, 0) == at, "mremap");
        need(mremap(at, 64 * PAGE, PAGE, 0) == at, "mremap");
        turn(0);
    }
    munmap(at, PAGE);
    return best / BATCH / 2;
}

static long mremap_move(void)
{
    char *one = mmap(NULL, 16 * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *two = mmap(NULL, 16 * PAGE, BOTH, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(one != MAP_FAILED && two != MAP_FAILED, "mmap");
    memset(one, 1, 16 * PAGE);
    turn(1);
    for (int i = 0; i < 4000; i++) {
        char *from = i & 1 ? two : one, *to = i & 1 ? one : two;
        need(mremap(from, 16 * PAGE, 16 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to, "mremap");
        turn(0);
    }
    munmap(one, 16 * PAGE);
    munmap(two, 16 * PAGE);
    return best / BATCH;
}

static long remap_pages(void)
{
    enum { PAGES = 1024 };
    char *at = mmap(NULL, PAGES * PAGE, BOTH, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    need(at != MAP_FAILED, "mmap");
    for (int i = 0; i < PAGES; i++)
        *(int *)(at + i * PAGE) = i;
    turn(1);
    for (long i = 0; i < PAGES; i++) {
        need(remap_file_pages(at + i * PAGE, PAGE, 0, PAGES - 1 - i, 0) == 0, "remap_file_pages");
        turn(0);
    }
    for (int i = 0; i < PAGES; i++)
        need(*(int *)(at + i * PAGE) == PAGES - 1 - i, "contents");
    munmap(at, PAGES * PAGE);
    return best / BATCH;
}

/* A nonlinear range is made linear again. */
static long remap_many_once(void)
{
    enum { PAGES = 10000 };
    char *at = mmap(NULL, PAGES * PAGE, BOTH, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    need(at != MAP_FAILED, "mmap");
    for (long i = 0; i < PAGES; i += 2)
        need(remap_file_pages(at + i * PAGE, PAGE, 0, PAGES - 1 - i, 0) == 0, "remap_file_pages");
    long start = now_ns();
    need(remap_file_pages(at, PAGES * PAGE, 0, 0, 0) == 0, "remap_file_pages");
    long spent = now_ns() - start;
    munmap(at, PAGES * PAGE);
    return spent;
}

/* The quickest of some. */
static long least(long (*once)(void))
{
    long least = once();
    for (int i = 0; i < 4; i++) {
        long spent = once();
        least = spent < least ? spent : least;
    }
    return least;
}

static long munmap_all(void) { return least(munmap_all_once); }
static long munmap_touched(void) { return least(munmap_touched_once); }
static long mprotect_all(void) { return least(mprotect_all_once); }
static long madvise_all(void) { return least(madvise_all_once); }
static long remap_many(void) { return least(remap_many_once); }

struct row { const char *name; long (*run)(void); };
static const struct row rows[] = {
    {"fork, 1,000 areas", fork_1k}, {"fork, 10,000 areas", fork_10k}, {"fork, 60,000 areas", fork_60k},
    {"mprotect splits, each", split}, {"munmap each of 10,000", munmap_each}, {"munmap all 10,000", munmap_all},
    {"munmap all, touched", munmap_touched}, {"mprotect all 10,000", mprotect_all}, {"madvise all 10,000", madvise_all},
    {"mprotect a page", mprotect_page}, {"tkill 0 + mprotect", tkill_0_mprotect}, {"tkill + mprotect", tkill_mprotect},
    {"tkill, handled", tkill_handled}, {"mremap in place", mremap_grow}, {"mremap moves", mremap_move},
    {"remap_file_pages each", remap_pages}, {"remap_file_pages all", remap_many},
};

int main(int argc, char **argv)
{
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int is_wanted = argc == 1;
        for (int a = 1; a < argc; a++)
            is_wanted |= strcmp(argv[a], rows[i].name) == 0;
        if (is_wanted) {
            printf("%s\t%ld\n", rows[i].name, rows[i].run());
            fflush(stdout);
        }
    }
    return 0;
}
