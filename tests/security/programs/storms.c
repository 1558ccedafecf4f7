/* Much of everything at once: signals, timers, futexes, sleeps, interrupts; arguments of absurd size.
 *
 * storms KIND MILLISECONDS: does it for that long, then prints "calm". */
#include "hostile.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

static long until;
static volatile long hits;

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int over(void) { return now_ms() >= until; }
static void hit(int signo) { hits++; }

static void signals(void)
{
    pid_t parent = getpid(), pids[4];
    signal(SIGUSR1, hit);
    signal(SIGRTMIN, hit);
    for (int i = 0; i < 4; i++)
        if ((pids[i] = fork()) == 0) {
            while (!over()) {
                union sigval v = {0};
                kill(parent, SIGUSR1);
                sigqueue(parent, SIGRTMIN, v);
                kill(getpid(), SIGUSR1);
            }
            _exit(0);
        }
    while (!over())
        usleep(1);
    for (int i = 0; i < 4; i++)
        await(pids[i], 2000);
}

/* A handler that never returns: frames upon frames, until the stack is gone. */
static void recurse(int signo) { raise(SIGUSR2); }

static void nested(void)
{
    while (!over()) {
        pid_t pid = fork();
        if (pid == 0) {
            struct sigaction a = {.sa_handler = recurse, .sa_flags = SA_NODEFER};
            sigaction(SIGUSR2, &a, NULL);
            raise(SIGUSR2);
            _exit(0);
        }
        await(pid, 3000);
    }
}

static void timers(void)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    struct itimerspec soon = {{0, 1}, {0, 1}};
    struct itimerval every = {{0, 1}, {0, 1}};
    int epoll = epoll_create1(0);
    signal(SIGRTMIN, hit);
    signal(SIGALRM, hit);
    setitimer(ITIMER_REAL, &every, NULL);
    for (int i = 0; i < 500; i++) {
        timer_t t;
        struct epoll_event e = {EPOLLIN | EPOLLET};
        if (timer_create(i % 2 ? CLOCK_MONOTONIC : CLOCK_REALTIME, &event, &t) == 0)
            timer_settime(t, 0, &soon, NULL);
        int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        timerfd_settime(fd, 0, &soon, NULL);
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
    }
    while (!over()) {
        struct epoll_event e[64];
        epoll_wait(epoll, e, 64, 1);
    }
}

static int word;

static void *futex_thread(void *arg)
{
    while (!over()) {
        struct timespec t = {0, rnd() % 2000};
        switch (rnd() % 8) {
        case 0: raw(SYS_futex, (long)&word, FUTEX_WAIT, word, (long)&t, 0, 0); break;
        case 1: raw(SYS_futex, (long)&word, FUTEX_WAKE, 1 << 30, 0, 0, 0); break;
        case 2: raw(SYS_futex, (long)&word, FUTEX_REQUEUE, 1, 1 << 30, (long)(&word + 1), 0); break;
        case 3: raw(SYS_futex, (long)&word, FUTEX_CMP_REQUEUE, -1, -1, (long)&word, word); break;
        case 4: raw(SYS_futex, (long)&word, FUTEX_LOCK_PI, 0, (long)&t, 0, 0); break;
        case 5: raw(SYS_futex, (long)&word, FUTEX_UNLOCK_PI, 0, 0, 0, 0); break;
        case 6: raw(SYS_futex, (long)&word, FUTEX_WAKE_OP, 1, 1, (long)&word, rnd()); break;
        case 7: raw(SYS_futex, (long)&word | (rnd() % 4), rnd() % 16, rnd(), (long)&t, rnd(), rnd()); break;
        }
        if (rnd() % 64 == 0)
            word = rnd();
    }
    return NULL;
}

static void futexes(void)
{
    pthread_t t[16];
    for (int i = 0; i < 16; i++)
        pthread_create(&t[i], NULL, futex_thread, NULL);
    for (int i = 0; i < 16; i++)
        pthread_join(t[i], NULL);
}

static void in_child(void (*what)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        what();
        _exit(0);
    }
    await(pid, until - now_ms() > 0 ? until - now_ms() : 1);
}

static void sleep_for_ever(void)
{
    struct timespec t = {0x7fffffffffffffffL, 999999999};
    struct itimerspec late = {{0x7fffffffffffffffL, 0}, {0x7fffffffffffffffL, 999999999}};
    struct itimerval every = {{0x7fffffffffffffffL, 0}, {0x7fffffffffffffffL, 999999}};
    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    timerfd_settime(fd, 0, &late, NULL);
    timerfd_settime(fd, TFD_TIMER_ABSTIME, &late, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    pthread_t thread;
    raw(SYS_clock_nanosleep, 999, 0, (long)&t, 0, 0, 0);
    if (fork() == 0)
        raw(SYS_clock_nanosleep, 1, 1, (long)&t, 0, 0, 0);
    if (fork() == 0)
        raw(SYS_ppoll, 0, 0, (long)&t, 0, 0, 0);
    if (fork() == 0)
        raw(SYS_futex, (long)&word, FUTEX_WAIT, word, (long)&t, 0, 0);
    if (fork() == 0)
        raw(SYS_pselect6, 0, 0, 0, 0, (long)&t, 0);
    raw(SYS_nanosleep, (long)&t, 0, 0, 0, 0, 0);
    raw(SYS_pause, 0, 0, 0, 0, 0, 0);
}

static void sleeps(void)
{
    setpgid(0, 0);
    in_child(sleep_for_ever);
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
}

/* Spins with every signal blocked and all registers of the stub's in its hands; only death ends it. */
static void spin(void)
{
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (;;)
        hits++;
}

static void spins(void)
{
    pid_t pids[8];
    for (int i = 0; i < 8; i++)
        if ((pids[i] = fork()) == 0)
            spin();
    while (!over())
        getppid();
    for (int i = 0; i < 8; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
}

/* rt_sigreturn from inside the stub with everything masked, then spins: an interrupt will not stop it. */
static void masked_spin(void)
{
    const unsigned char *stub = (void *)STUB_BASE;
    static uint64_t frame[256] __attribute__((aligned(64)));
    static char stack[4096];
    uint64_t *context = frame + 1; /* ucontext; sigcontext follows 40 bytes on */
    static const unsigned char code[] = {0xb8, 15, 0, 0, 0, 0x0f, 0x05};
    for (uint64_t i = 0; i < 0x1000; i++)
        if (!memcmp(stub + i, code, sizeof code)) {
            context[5 + 16] = (uint64_t)spin;
            context[5 + 15] = (uint64_t)(stack + 4000);
            context[5 + 17] = 0x202;
            context[5 + 18] = 0x002b000000000033;
            context[5 + 32] = ~0ULL; /* the mask: uc_sigmask, behind 256 bytes of sigcontext */
            __asm__ volatile("mov %0, %%rsp; jmp *%1" : : "r"(frame + 1), "r"(STUB_BASE + i) : "memory");
        }
    spin();
}

static void masked(void)
{
    while (!over()) {
        pid_t pid = fork();
        if (pid == 0)
            masked_spin();
        usleep(20000);
        kill(pid, SIGUSR1);
        kill(pid, SIGSTOP);
        kill(pid, SIGCONT);
        kill(pid, SIGKILL);
        if (await(pid, 2000) == 0)
            printf("it ended by itself\n");
    }
}

static void sizes(void)
{
    static struct iovec many[2048];
    static char *page;
    long huge[] = {0, -1, 1L << 31, 1L << 32, 1L << 40, 1L << 47, 0x7ffff000, 0x7fffffffffffffffL, 1L << 20};
    page = mmap(NULL, 1 << 22, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(page + (1 << 21), 1 << 21, PROT_NONE); /* or the memory behind it is overwritten */
    int zero = open("/dev/zero", O_RDONLY), null = open("/dev/null", O_WRONLY), random = open("/dev/urandom", O_RDONLY);
    int file = open("/tmp/sizes", O_RDWR | O_CREAT, 0600), dir = open("/usr/bin", O_RDONLY | O_DIRECTORY);
    int memory = memfd_create("m", 0), fds[2], sockets[2];
    pipe2(fds, O_NONBLOCK);
    socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, sockets);
    for (int i = 0; i < 2048; i++)
        many[i] = (struct iovec){page, 1 << 21};
    for (unsigned i = 0; i < sizeof huge / sizeof *huge; i++) {
        long n = huge[i];
        raw(SYS_read, zero, (long)page, n, 0, 0, 0);
        raw(SYS_read, random, (long)page, n, 0, 0, 0);
        raw(SYS_write, null, (long)page, n, 0, 0, 0);
        raw(SYS_write, fds[1], (long)page, n, 0, 0, 0);
        raw(SYS_read, fds[0], (long)page, n, 0, 0, 0);
        raw(SYS_pwrite64, file, (long)page, n, n, 0, 0);
        raw(SYS_pwrite64, file, (long)page, 1 << 20, n, 0, 0);
        raw(SYS_pread64, file, (long)page, n, 0, 0, 0);
        raw(SYS_getdents64, dir, (long)page, n, 0, 0, 0);
        raw(SYS_getrandom, (long)page, n, 0, 0, 0, 0);
        raw(SYS_readv, zero, (long)many, n, 0, 0, 0);
        raw(SYS_writev, null, (long)many, n, 0, 0, 0);
        raw(SYS_writev, fds[1], (long)many, n, 0, 0, 0);
        raw(SYS_readv, zero, (long)many, 1024, 0, 0, 0);
        raw(SYS_writev, null, (long)many, 1024, 0, 0, 0);
        raw(SYS_pwritev, memory, (long)many, 1024, n, 0, 0);
        raw(SYS_ftruncate, memory, n, 0, 0, 0, 0);
        raw(SYS_fallocate, memory, 0, n, n, 0, 0);
        raw(SYS_fallocate, memory, 3, 0, n, 0, 0);
        raw(SYS_ftruncate, memory, 0, 0, 0, 0, 0);
        raw(SYS_sendfile, null, zero, 0, n, 0, 0);
        raw(SYS_sendfile, fds[1], file, 0, n, 0, 0);
        raw(SYS_copy_file_range, file, 0, memory, 0, n, 0);
        raw(SYS_splice, fds[0], 0, null, 0, n, 0);
        raw(SYS_sendto, sockets[0], (long)page, n, 0x40, 0, 0);
        raw(SYS_recvfrom, sockets[1], (long)page, n, 0x40, 0, 0);
        raw(SYS_poll, (long)page, n, 0, 0, 0, 0);
        raw(SYS_select, n, (long)page, (long)page, (long)page, (long)(page + (1 << 20)), 0);
        raw(SYS_epoll_wait, epoll_create1(0), (long)page, n, 0, 0, 0);
        raw(SYS_mincore, (long)page, n, (long)page, 0, 0, 0);
        raw(SYS_setgroups, n, (long)page, 0, 0, 0, 0);
        raw(SYS_getgroups, n, (long)page, 0, 0, 0, 0);
        raw(SYS_sethostname, (long)page, n, 0, 0, 0, 0);
        raw(SYS_getcwd, (long)page, n, 0, 0, 0, 0);
        raw(SYS_readlink, (long)"/proc/self/exe", (long)page, n, 0, 0, 0);
        raw(SYS_setxattr, (long)"/tmp/sizes", (long)"user.x", (long)page, n, 0, 0);
        raw(SYS_listxattr, (long)"/tmp/sizes", (long)page, n, 0, 0, 0);
        raw(SYS_sched_getaffinity, 0, n, (long)page, 0, 0, 0);
        raw(SYS_sched_setaffinity, 0, n, (long)page, 0, 0, 0);
        raw(SYS_clone3, (long)page, n, 0, 0, 0, 0);
        raw(SYS_process_vm_readv, getpid(), (long)many, n, (long)many, n, 0);
        raw(SYS_mmap, 0, n, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        raw(SYS_mmap, 0, n, 3, MAP_SHARED, file, n);
        raw(SYS_brk, n, 0, 0, 0, 0, 0);
        raw(SYS_lseek, file, n, i % 5, 0, 0, 0);
        raw(SYS_add_key, (long)page, (long)page, (long)page, n, 0, 0);
        raw(SYS_mq_open, (long)page, 0x40, 0600, (long)page, 0, 0);
    }
}

static void arguments(void)
{
    /* More than ARG_MAX in total, one string beyond MAX_ARG_STRLEN, a million pointers, no end, no argv. */
    static char *many[1 << 20];
    char *long_one = malloc(4 << 20), *few[] = {"/bin/true", long_one, NULL}, *none[] = {NULL};
    memset(long_one, 'a', (4 << 20) - 1);
    long_one[(4 << 20) - 1] = 0;
    if (execv("/bin/true", few) != -1 || errno != E2BIG)
        printf("long string: %d\n", errno);
    long_one[100000] = 0;
    for (int i = 0; i < 200; i++)
        many[i] = long_one;
    many[200] = NULL;
    if (execv("/bin/true", many) != -1 || errno != E2BIG)
        printf("much: %d\n", errno);
    for (int i = 0; i < (1 << 20) - 1; i++)
        many[i] = "";
    if (execve("/bin/true", many, many) != -1 || errno != E2BIG)
        printf("many: %d\n", errno);
    if (execv("/bin/true", (char **)8) != -1)
        printf("bad pointers: %d\n", errno);
    for (int i = 0; i < 100; i++)
        many[i] = long_one;
    pid_t pid = fork();
    if (pid == 0) {
        many[15] = NULL; /* 1.5 MB: allowed */
        execv("/bin/true", many);
        _exit(errno);
    }
    int status = await(pid, 5000);
    if (status)
        printf("allowed: %x\n", status);
}

int main(int argc, char **argv)
{
    static const struct { const char *name; void (*run)(void); } runs[] = {
        {"signals", signals}, {"nested", nested}, {"timers", timers}, {"futexes", futexes}, {"sleeps", sleeps},
        {"spins", spins}, {"masked", masked}, {"sizes", sizes}, {"arguments", arguments}};
    until = now_ms() + atoi(argv[2]);
    hold_sigchld();
    for (unsigned i = 0; i < sizeof runs / sizeof *runs; i++)
        if (!strcmp(argv[1], runs[i].name)) {
            runs[i].run();
            printf("calm\n");
            return 0;
        }
    return 2;
}
