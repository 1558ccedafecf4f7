/* Forgeries of a guest in its slots: forged words of every kind while forks, execs, signals and deaths are under way
 * (fuzz), births and exits that are let through and then denied (hide), calls that cannot come without a frame. */
#include "hostile.h"

#define ST_REQUEST 1
#define ST_REPLY 3
#define K_OPS_FAILED 4
#define K_CALL 7
#define SLOT(n) ((volatile uint32_t *)(REGION_BASE + (n) * SLOT_SIZE))
#define WORD(slot, offset) (*(volatile uint32_t *)((volatile char *)(slot) + (offset)))
#define LONG(slot, offset) (*(volatile uint64_t *)((volatile char *)(slot) + (offset)))
#define SYSNO 0x08
#define ARGS 0x10
#define PREFETCH 0x40
#define TID 0x44
#define OPS_DONE 0x80
#define FAIL_INDEX 0x88
#define OPS 0x600

static char *gadget; /* syscall; test; je; pop, pop, pop; ret in stub_clone */
static volatile uint64_t *shared;

static void find_gadget(void)
{
    static const unsigned char bytes[] = {0x0f, 0x05, 0x48, 0x85, 0xc0, 0x74};
    for (char *at = (char *)STUB_BASE; (at = memmem(at, (char *)STUB_BASE + 0x2000 - at, bytes, 6)); at++)
        if (!memcmp(at + 7, "\x41\x5d\x41\x5c\x5b\xc3", 6))
            gadget = at;
}

/* A call whose instruction lies in the stub; its result must not be 0. */
static long inside(long nr, const volatile uint64_t *a)
{
    long result;
    register long r10 __asm__("r10") = a[3];
    register long r8 __asm__("r8") = a[4];
    register long r9 __asm__("r9") = a[5];
    __asm__ volatile("lea -256(%%rsp), %%rsp; lea 1f(%%rip), %%r11; push %%r11; push %%rbx; push %%r12; push %%r13; jmp *%1;"
                     "1: lea 256(%%rsp), %%rsp"
                     : "=a"(result) : "b"(gadget), "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/* A call that is refused wakes the sentry as well. */
static void bell(void)
{
    uint64_t args[6] = {1, 1, 1};
    inside(SYS_mmap, args);
}

static int post(volatile uint32_t *slot, uint32_t kind)
{
    slot[1] = kind;
    __atomic_store_n(&slot[0], ST_REQUEST, __ATOMIC_SEQ_CST);
    bell();
    for (long i = 0; i < 50000000L; i++) {
        if (slot[0] == ST_REPLY)
            return 0;
        __builtin_ia32_pause();
    }
    return -1;
}

/* ---- hide: clone or exit as ordered, go another way, and deny it ---- */

static volatile long which;

__attribute__((noreturn, used)) static void hidden(void)
{
    long me = which;
    for (;;) {
        shared[me]++;
        for (volatile int i = 0; i < 100000; i++)
            ;
    }
}

/* A clone whose child goes on at `stack[0]`'s address by the pops and the return of the gadget; the parent likewise. */
long clone_from(uint64_t flags, uint64_t child_stack, uint64_t ptid, uint64_t *stack);
__asm__("clone_from: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        " mov %rsp, saved(%rip); mov %rcx, %rsp; xor %r10d, %r10d; xor %r8d, %r8d; xor %r9d, %r9d\n"
        " mov $1, %r13d; mov $56, %eax; jmp *gadget(%rip)\n"
        "clone_back: mov saved(%rip), %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
        " .bss\n saved: .quad 0\n .text\n");
extern char clone_back[];

/* By another way out of the stub, so that the child is no guest process. */
static int hide_forks(int count)
{
    volatile uint32_t *slot = SLOT(0);
    char *room = mmap(NULL, 0x80000, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
char *fake = (char *)(((uint64_t)room + SLOT_SIZE - 1) & ~(SLOT_SIZE - 1)); /* the slot that slot_of finds for that
                                                                                   stack */
    int born = 0;
    for (int i = 0; i < count; i++) {
        memset(fake, 0, 4096);
        ((uint32_t *)fake)[0] = ST_REPLY;
        uint64_t *stack = (uint64_t *)(fake + 0x10000);
        stack[0] = (uint64_t)hidden;
        stack[3] = (uint64_t)clone_back;
        which = i + 1;
        LONG(slot, SYSNO) = SYS_fork;
        WORD(slot, PREFETCH) = 0;
        if (post(slot, 1) || (slot[1] >> 16 & 0xff) == 0 || LONG(slot, OPS) != SYS_clone)
            break;
        born += clone_from(LONG(slot, OPS + 8), 0, 0, stack) > 0;
        WORD(slot, FAIL_INDEX) = 0;
        WORD(slot, FAIL_INDEX + 4) = EAGAIN;
        WORD(slot, OPS_DONE)++;
        if (post(slot, K_OPS_FAILED))
            break;
    }
    slot[0] = 0;
    printf("born %d\n", born);
    return 0;
}

/* Born as usual, and then denied. */
static int hide_threads(int count)
{
    int born = 0;
    for (int i = 0; i < count; i++) {
        char *stack = mmap(NULL, 0x10000, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        which = i + 1;
        long r;
        __asm__ volatile("syscall; test %%rax, %%rax; jnz 1f; call hidden; 1:"
                         : "=a"(r) : "a"(SYS_clone), "D"(0x50f00), "S"(stack + 0xfff0), "d"(0) : "rcx", "r11", "memory");
        born += r > 0;
        while (!shared[i + 1])
            ;
        WORD(SLOT(0), FAIL_INDEX) = 0;
        WORD(SLOT(0), FAIL_INDEX + 4) = EAGAIN;
        if (post(SLOT(0), K_OPS_FAILED))
            break;
        SLOT(0)[0] = 0;
    }
    printf("born %d\n", born);
    return 0;
}

static volatile int waiting, leave;

static void *leaves(void *arg)
{
    volatile uint32_t *slot = SLOT(1 + (long)arg);
    __atomic_fetch_add(&waiting, 1, __ATOMIC_SEQ_CST);
    while (!leave)
        ;
    LONG(slot, SYSNO) = SYS_exit;
    WORD(slot, PREFETCH) = 0;
    post(slot, 1);
    for (;;) {
        slot[0] = 0; /* it runs on */
        shared[1 + (long)arg]++;
        WORD(slot, OPS_DONE)++;
    }
    return NULL;
}

static int hide_exits(int count)
{
    pthread_t t;
    for (long i = 0; i < count; i++)
        pthread_create(&t, NULL, leaves, (void *)i);
    while (waiting < count)
        ;
    leave = 1;
    sleep(30);
    printf("left\n");
    return 0;
}

/* ---- calls without a frame ---- */

static int frameless(long nr, int count)
{
    volatile uint32_t *slot = SLOT(0);
    int unanswered = 0;
    for (int i = 0; i < count; i++) {
        LONG(slot, SYSNO) = nr;
        for (int k = 0; k < 6; k++)
            LONG(slot, ARGS + 8 * k) = k == 0 && nr == SYS_clone ? 17 : 0;
        WORD(slot, PREFETCH) = 0;
        unanswered += post(slot, K_CALL) < 0;
        slot[0] = 0;
    }
    pid_t pid = fork();
    if (pid == 0)
        _exit(7);
    int status = 0;
    waitpid(pid, &status, 0);
    printf("unanswered %d then %d\n", unanswered, WEXITSTATUS(status));
    return 0;
}

/* ---- a fork that the host refuses: one for each line that is read ---- */

static int refused(void)
{
    char line[8];
    puts("ready");
    while (read(0, line, 8) > 0 && line[0] == 'f') {
        pid_t pid = fork();
        int status = 0;
        if (pid == 0)
            _exit(7);
        if (pid > 0)
            waitpid(pid, &status, 0);
        printf("error %d status %d\n", pid < 0 ? errno : 0, WEXITSTATUS(status));
    }
    return 0;
}

/* ---- fuzz ---- */

static int slots;
static volatile int go = 1;
static int is_mild; /* forges no word that ends it at once */

static uint64_t value(uint64_t r)
{
    switch (r % 8) {
    case 0: return 0;
    case 1: return 1;
    case 2: return r >> 8 & 63;
    case 3: return r >> 8 & 0xffff;
    case 4: return ~0ULL;
    case 5: return 0xffffffff;
    case 6: return REGION_BASE + (r >> 8 & 0x3fffff);
    default: return r * 0x9e3779b97f4a7c15ULL;
    }
}

static void forge(uint64_t *state)
{
    static const int calls[] = {57, 56, 9, 11, 10, 60, 231, 59, 15, 435, 58, 0, 1, 3, 202, 25, 12, 24, 39, 62, 13, 14, 61};
    uint64_t r = *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    r ^= r >> 29;
    volatile uint32_t *s = SLOT(r % slots);
    uint64_t v = value(r >> 20), w = r >> 12;
    switch ((r >> 6) % 20) {
    case 0: s[1] = is_mild ? 1 + w % 3 : w % 10; s[0] = ST_REQUEST; break;
    case 1: WORD(s, FAIL_INDEX) = v; WORD(s, FAIL_INDEX + 4) = w; s[1] = is_mild ? 1 : K_OPS_FAILED; s[0] = ST_REQUEST; break;
    case 2:
        LONG(s, SYSNO) = calls[w % 23];
        for (int i = 0; i < 6; i++)
            LONG(s, ARGS + 8 * i) = r >> i & 1 ? 0 : value(r >> (2 * i));
        WORD(s, PREFETCH) = v;
        s[1] = 1 | (uint32_t)w << 16;
        s[0] = ST_REQUEST;
        break;
    case 3: WORD(s, PREFETCH) = w % 5; LONG(s, 0x48 + 16 * (w % 3)) = v; LONG(s, 0x50 + 16 * (w % 3)) = r; break;
    case 4: WORD(s, OPS_DONE) += w % 3; break;
    case 5: WORD(s, TID) = w & 1 ? w % 64 : v; break;
    case 6: WORD(s, 0x4a8 + 4 * (w % 4)) = v; break;
    case 7: LONG(s, 0x4b8 + 8 * (w % 2)) = v; break;
    case 8: s[0] = w % 6; break;
    case 9: s[1] = 5; s[0] = ST_REQUEST; break;
    case 10: s[1] = 3; s[0] = ST_REQUEST; break;
    case 11: LONG(s, SLOT_SIZE - 0xe00 + (w % 0xe00 & ~7ULL)) = v; break;
    case 12: s[1] = K_CALL; LONG(s, SYSNO) = w % 460; s[0] = ST_REQUEST; break;
    case 13: if (!is_mild && !(w % 16)) memset((void *)s, w & 64 ? 0 : w, w % 0x1000); break;
    case 14: WORD(s, 0x490 + 4 * (w % 5)) = v; break;          /* wakes, bell */
    case 15: LONG(s, 0x90 + 8 * (w % 128)) = v; break;         /* copies */
    case 16: LONG(s, 0x4c8 + 8 * (w % 15)) = v; break;         /* registers of a call, answers */
    case 17: LONG(s, OPS + 8 * (w % 64)) = v; break;
    case 18: s[1] = w & 1 ? v : w; break;
    default: WORD(s, w % 0x600 & ~3U) = v;
    }
    __atomic_fetch_add(&shared[0], 1, __ATOMIC_RELAXED);
}

static void *forger(void *arg)
{
    uint64_t state = (uint64_t)arg;
    while (go) {
        forge(&state);
        for (volatile int i = state >> 50 & 1023; i > 0; i--)
            ;
    }
    return NULL;
}

static void nothing(int signo) {}

static void *idle(void *arg) { return NULL; }

static void *worker(void *arg)
{
    uint64_t r = (uint64_t)arg;
    char buffer[8000];
    pthread_t t;
    while (go) {
        r = r * 6364136223846793005ULL + 1442695040888963407ULL;
        uint64_t w = r >> 33;
        switch (w % 12) {
        case 0: case 1: {
            pid_t pid = fork();
            if (pid == 0)
                _exit(0);
            if (pid > 0)
                waitpid(pid, NULL, w & 16 ? WNOHANG : 0);
            break;
        }
        case 2: {
            void *p = mmap(NULL, 1 << 14, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            if (p != MAP_FAILED)
                munmap(p, 1 << 14);
            break;
        }
        case 3: {
            int fd = open("/proc/self/exe", O_RDONLY);
            void *p = mmap(NULL, 8192, 5, MAP_PRIVATE, fd, 0);
            for (int i = 0; i < 40; i++)
                pread(fd, buffer, 8000, i * 300);
            close(fd);
            if (p != MAP_FAILED)
                munmap(p, 8192);
            break;
        }
        case 4:
            if (!pthread_create(&t, NULL, idle, NULL))
                pthread_detach(t);
            break;
        case 5: kill(getpid(), w & 16 ? SIGURG : SIGUSR1); break;
        case 6: { /* another thread's operation */
            volatile uint64_t *op = &LONG(SLOT(w % slots), OPS);
            inside(op[0] == SYS_clone ? SYS_clone : SYS_mmap, op + 1);
            break;
        }
        case 7: {
            pid_t pid = w & 0x70 ? -1 : vfork();
            if (pid == 0) {
                execl("/proc/self/exe", "slots", "nothing", NULL);
                _exit(1);
            }
            break;
        }
        case 8: if (!(w & 0x1f0)) execl("/proc/self/exe", "slots", "nothing", NULL); break;
        default: access("/tmp", R_OK);
        }
    }
    return NULL;
}

static void victim(uint64_t mine)
{
    pthread_t t[8];
    struct itimerval end = {{0, 0}, {0, 20000 + mine % 100000}};
    sigset_t none;
    setpgid(0, 0);
    setresuid(1000, 1000, 1000); /* a forged kill(-1) shall reach these alone */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGUSR1, nothing);
    signal(SIGURG, nothing);
    setitimer(ITIMER_REAL, &end, NULL);
    slots = 1 + mine / 7 % 8;
    is_mild = mine & 1;
    for (int i = 0; i < 1 + (int)(mine / 3 % 5); i++)
        pthread_create(&t[i], NULL, worker, (void *)(mine * (2 * i + 3)));
    for (int i = 0; i < (int)(mine / 11 % 2); i++)
        pthread_create(&t[5], NULL, forger, (void *)(mine ^ 77));
    forger((void *)mine);
}

static int fuzz(uint64_t first, uint64_t forgeries)
{
    pid_t pids[3] = {0};
    int processes = 0;
    double longest = 0;
    struct timespec a, b;
    shared = mmap(NULL, 65536, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    seed = first * 0x9e3779b97f4a7c15ULL | 1;
    hold_sigchld();
    while (shared[0] < forgeries) {
        for (int i = 0; i < 3; i++) {
            uint64_t mine = rnd();
            if (pids[i]) {
                await(pids[i], 2000);
                kill(-pids[i], SIGKILL);
            }
            pids[i] = fork();
            if (pids[i] == 0)
                victim(mine);
            processes++;
            clock_gettime(CLOCK_MONOTONIC, &a);
            access("/nothing", R_OK);
            clock_gettime(CLOCK_MONOTONIC, &b);
            double took = b.tv_sec - a.tv_sec + (b.tv_nsec - a.tv_nsec) / 1e9;
            longest = took > longest ? took : longest;
        }
    }
    for (int i = 0; i < 3; i++) {
        kill(-pids[i], SIGKILL);
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, __WALL);
    }
    fprintf(stderr, "longest call %.3f s\n", longest);
    printf("forged %d in %d processes\n", shared[0] >= forgeries, processes > 3);
    return 0;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    find_gadget();
    if (argc == 2 && !strcmp(argv[1], "refused"))
        return refused();
    if (argc < 3)
        return 0;
    if (!strcmp(argv[1], "fuzz"))
        return fuzz(atol(argv[2]), atol(argv[3]));
    if (!strcmp(argv[1], "frameless"))
        return frameless(atol(argv[2]), atoi(argv[3]));
    shared = mmap(NULL, 65536, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int count = atoi(argv[3]);
    return !strcmp(argv[2], "exit") ? hide_exits(count) : !strcmp(argv[2], "thread") ? hide_threads(count) : hide_forks(count);
}
