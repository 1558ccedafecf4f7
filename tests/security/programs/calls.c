/* Attacks on the parts that patched call sites and direct mode add: the fixed entry for calls without a signal, the
 * fields that only they use, and the descriptors that a process keeps for its further mappings. */
#include "hostile.h"
#include <setjmp.h>
#include <sys/uio.h>
#include <ucontext.h>

#define K_CALL 7
#define ST_REQUEST 1

static char *gadget; /* a syscall instruction of the stub with ud2 behind it */
static sigjmp_buf back;
static volatile long got;

static void on_fault(int sig, siginfo_t *info, void *context)
{
    got = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX];
    siglongjmp(back, sig);
}

static void prepare(void)
{
    static const unsigned char bytes[] = {0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b};
    static char stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction act = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    gadget = memmem((char *)STUB_BASE, 0x2000, bytes, sizeof bytes);
    if (gadget)
        gadget += 5;
    sigaltstack(&ss, NULL);
    for (int sig = 1; sig < 32; sig++)
        if (sig == SIGILL || sig == SIGSEGV || sig == SIGBUS || sig == SIGSYS || sig == SIGTRAP || sig == SIGFPE)
            sigaction(sig, &act, NULL);
}

/* The call from inside the stub; a call that is not let through returns -EPERM or ends the process. */
static long inside(long nr, long a, long b, long c, long d, long e, long f)
{
    got = -999;
    if (sigsetjmp(back, 1) == 0) {
        register long r10 __asm__("r10") = d;
        register long r8 __asm__("r8") = e;
        register long r9 __asm__("r9") = f;
        __asm__ volatile("jmp *%0" : : "b"(gadget), "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "memory", "rcx", "r11");
    }
    return got;
}

static uint64_t pick(void)
{
    static const uint64_t values[] = {0, 1, 2, 8, 4096, STUB_BASE, STUB_BASE + CALL_ENTRY_OFFSET, INFO_BASE, INFO_BASE + 4096, VDSO_BASE,
                                      REGION_BASE, REGION_BASE + SLOT_SIZE, REGION_BASE + 0x11000, MAX_ADDRESS, 1UL << 47, -1, -4096};
    return rnd() % 4 ? values[rnd() % (sizeof values / sizeof *values)] : rnd();
}

static void set_gs(uint64_t base)
{
    if ((int64_t)(base << 16) >> 16 == (int64_t)base)
        __asm__ volatile("wrgsbase %0" : : "r"(base));
}

/* stub_call with any registers and any GS, and back to any address. */
static void enter(void)
{
    static const long numbers[] = {SYS_getpid, SYS_close, SYS_read, SYS_write, SYS_mmap, SYS_munmap, SYS_fork, SYS_clone, SYS_vfork, SYS_execve, SYS_exit,
                                   SYS_rt_sigreturn, SYS_futex, SYS_nanosleep, SYS_mprotect, 511, 512, 1L << 31, -1};
    static uint64_t r[8];
    static uint64_t own;
    char *pages = mmap(NULL, 2 * SLOT_SIZE, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    __asm__ volatile("rdgsbase %0" : "=r"(own));
    for (int round = 0; round < 40; round++) {
        uint64_t bases[] = {own, own, own, REGION_BASE + SLOT_SIZE * (rnd() % 1024), REGION_BASE + rnd() % (1UL << 27), (uint64_t)pages, pick()};
        for (int i = 0; i < 8; i++)
            r[i] = pick();
        long number = numbers[rnd() % (sizeof numbers / sizeof *numbers)];
        uint64_t landing[] = {(uint64_t)gadget + 2, (uint64_t)gadget + 2, STUB_BASE + rnd() % 0x1800, (uint64_t)pages + 2, pick()};
        uint64_t behind = landing[rnd() % 5];
        int keeps_stack = rnd() % 2;
        if (sigsetjmp(back, 1) == 0) {
            set_gs(bases[rnd() % 7]);
            __asm__ volatile("mov %[entry], %%rbx\n"
                             "mov %[number], %%rax\n"
                             "mov %[behind], %%r11\n"
                             "cmpl $0, %[keeps]\n"
                             "lea %[r], %%rbp\n"
                             "mov 0(%%rbp), %%rdi; mov 8(%%rbp), %%rsi; mov 16(%%rbp), %%rdx; mov 24(%%rbp), %%r10\n"
                             "mov 32(%%rbp), %%r8; mov 40(%%rbp), %%r9; mov 48(%%rbp), %%r12\n"
                             "cmove 56(%%rbp), %%rsp\n"
                             "jmp *%%rbx"
                             : : [entry] "r"(STUB_BASE + CALL_ENTRY_OFFSET), [number] "r"(number), [behind] "r"(behind), [keeps] "m"(keeps_stack), [r] "m"(r)
                             : "memory", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12");
            __builtin_unreachable();
        }
        set_gs(own);
    }
}

static volatile int go = 1;

/* Posts and rings in the name of every slot, and overwrites a call's data there, while the calls run. */
static void *forger(void *arg)
{
    for (;;) {
        uint64_t slot = REGION_BASE + SLOT_SIZE * (rnd() % 3);
        switch (rnd() % 5) {
        case 0:
            *(volatile uint32_t *)(slot + 4) = K_CALL;
            *(volatile uint32_t *)slot = ST_REQUEST;
            break;
        case 1: *(volatile uint32_t *)(slot + 4) = rnd() % 9; break;
        case 2: *(volatile uint64_t *)(slot + rnd() % 0x600 / 8 * 8) = pick(); break;
        case 3: *(volatile uint64_t *)(slot + rnd() % 0x1000 / 8 * 8) = rnd(); break;
        case 4: *(volatile uint32_t *)slot = rnd() % 6; break;
        }
        /* The doorbell, with its own arguments or with others; and sleepers woken. */
        if (gadget && rnd() % 8 == 0)
            __asm__ volatile("push %%rbx; lea 1f(%%rip), %%rbx; jmp *%[gadget]; 1: pop %%rbx" : : [gadget] "r"(gadget), "a"(24L), "D"(BELL_ARG0), "S"(BELL_ARG1), "d"(rnd()) : "memory", "rcx", "r11");
    }
    return NULL;
}

static void forge(void)
{
    pthread_t t;
    char buffer[256];
    struct iovec iov[4] = {{buffer, 64}, {buffer + 64, 64}, {buffer + 128, 64}, {buffer + 192, 64}};
    pthread_create(&t, NULL, forger, NULL);
    for (int n = 0;; n++) {
        int fd = open("/etc/passwd", O_RDONLY), pair[2];
        readv(fd, iov, 4);
        pread(fd, buffer, sizeof buffer, 3);
        fcntl(fd, F_GETFL);
        lseek(fd, 0, SEEK_END);
        close(fd);
        if (pipe(pair) == 0) {
            write(pair[1], buffer, 100);
            read(pair[0], buffer, 100);
            close(pair[0]);
            close(pair[1]);
        }
        char *p = mmap(NULL, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p != MAP_FAILED)
            *p = 1;
        munmap(p, 8192);
        getpid();
        getppid();
        getuid();
    }
}

static int storm(int children, void (*attack)(void), int ms)
{
    hold_sigchld();
    for (int i = 0; i < children; i++) {
        uint64_t mine = rnd();
        pid_t pid = fork();
        if (pid < 0) { perror("fork"); return 1; }
        if (pid == 0) {
            struct itimerval soon = {{0, 0}, {0, ms * 1000}};
            struct sigaction plain = {.sa_handler = SIG_DFL};
            seed = mine | 1;
            setpgid(0, 0);
            sigaction(SIGALRM, &plain, NULL);
            setitimer(ITIMER_REAL, &soon, NULL);
            attack();
            _exit(0);
        }
        await(pid, 1000);
        kill(-pid, SIGKILL);
    }
    printf("ended %d\n", children);
    return 0;
}

/* Reads all data that present descriptors give: `marker` must not be in it. */
static int kept(const char *marker)
{
    int mapped = 0, found = 0, shared = 0, other = 0;
    char *at = (char *)0x7000000000;
    for (int fd = 0; fd < 32; fd++) {
        long flags[] = {MAP_PRIVATE | MAP_FIXED, MAP_SHARED | MAP_FIXED, MAP_PRIVATE, MAP_SHARED_VALIDATE | MAP_FIXED};
        for (int i = 0; i < 4; i++)
            for (long offset = 0; offset < (i ? 4096 : 262144); offset += 4096) {
                long result = inside(SYS_mmap, (long)at, 4096, PROT_READ, flags[i], fd, offset);
                if (result != (long)at)
                    continue;
                mapped++;
                shared += i != 0;
                other += fd < 8 || fd > 23;
                if (sigsetjmp(back, 1) == 0)
                    found += memmem(at, 4096, marker, strlen(marker)) != NULL;
            }
    }
    printf("mapped %s found %d shared %d other %d\n", mapped ? "some" : "none", found, shared, other);
    return 0;
}

int main(int argc, char **argv)
{
    prepare();
    if (!gadget)
        printf("no gadget\n");
    if (!strcmp(argv[1], "kept")) {
        /* The marker is not to be in our own text or arguments as it is in the file. */
        char marker[64];
        snprintf(marker, sizeof marker, "%s-%s", argv[2], argv[3]);
        if (argc > 4 && setuid(atoi(argv[4])))
            return 2;
        return kept(marker);
    }
    if (!strcmp(argv[1], "again")) { /* be another program, as another user */
        if (setuid(atoi(argv[2])))
            return 2;
        execv(argv[0], (char *[]){argv[0], "kept", argv[3], argv[4], NULL});
        return 3;
    }
    return storm(atoi(argv[2]), strcmp(argv[1], "entry") ? forge : enter, 60);
}
