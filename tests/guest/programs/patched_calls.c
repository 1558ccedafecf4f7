/* The guarantees at a program's own system call instructions, which cloche may have replaced by jumps. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* long probe(long nr, uint64_t out[18]): makes the call `nr` without arguments of use, all registers full of patterns
 * and the red zone in use; stores the registers afterwards. */
__asm__(".text\n.globl probe\n.type probe, @function\nprobe:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsi, saved_out(%rip)\n"
        "mov %rdi, %rax\n"
        "mov $0x1111, %ebx; mov $0x2222, %ebp; mov $0x3333, %r12d; mov $0x4444, %r13d; mov $0x5555, %r14d\n"
        "mov $0x6666, %r15d; mov $0x7777, %edi; mov $0x8888, %esi; mov $0x9999, %edx; mov $0xaaaa, %r8d\n"
        "mov $0xbbbb, %r9d; mov $0xcccc, %r10d\n"
        "movq $0x1234567, -8(%rsp); movq $0x89abcde, -128(%rsp)\n"
        "cmp $0, %rdi; stc\n"
        "mov %rax, %rax; mov %rdi, %rdi\n"
        "syscall\n"
        "pushfq_later: mov saved_out(%rip), %r11\n"
        "mov %rax, (%r11); mov %rbx, 8(%r11); mov %rbp, 16(%r11); mov %r12, 24(%r11); mov %r13, 32(%r11)\n"
        "mov %r14, 40(%r11); mov %r15, 48(%r11); mov %rdi, 56(%r11); mov %rsi, 64(%r11); mov %rdx, 72(%r11)\n"
        "mov %r8, 80(%r11); mov %r9, 88(%r11); mov %r10, 96(%r11)\n"
        "mov -8(%rsp), %rcx; mov %rcx, 104(%r11); mov -128(%rsp), %rcx; mov %rcx, 112(%r11)\n"
        "pushfq; pop %rcx; and $0x8d5, %ecx; mov %rcx, 120(%r11)\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "ret\n.size probe, .-probe\n"
        ".globl plain_getppid\n.type plain_getppid, @function\nplain_getppid:\n"
        "mov $110, %eax\n.globl plain_syscall\nplain_syscall: syscall\nret\n.size plain_getppid, .-plain_getppid\n"
        ".data\nsaved_out: .quad 0\n.text\n");
long probe(long nr, uint64_t *out);
long plain_getppid(void);
extern char plain_syscall[];

static void registers(void)
{
    static const long numbers[] = {SYS_getpid, SYS_getppid, SYS_getuid, SYS_close, SYS_umask, SYS_sched_yield, 999, -1};
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        uint64_t out[18] = {0};
        int bad = 0;
        static const uint64_t want[] = {0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666, 0x7777, 0x8888,
                                        0x9999, 0xaaaa, 0xbbbb, 0xcccc, 0x1234567, 0x89abcde};
        for (int k = 0; k < 200; k++) {
            probe(numbers[i], out);
            for (int j = 0; j < 14; j++)
                bad += out[1 + j] != want[j];
        }
        printf("call %ld: %d registers changed, flags %#lx\n", numbers[i], bad, (unsigned long)out[15]);
        if (numbers[i] == SYS_getpid)
            printf("getpid %d\n", (long)out[0] == getpid());
        if (numbers[i] == SYS_umask)
            umask(022);
    }
    printf("getppid %d\n", plain_getppid() == getppid());
    long result;
    __asm__ volatile("call *%1" : "=a"(result) : "r"(plain_syscall), "a"(110L) : "rcx", "r11", "memory");
    printf("into the middle %d\n", result == getppid());
}

static volatile int handled;
static sigjmp_buf away;
static void on_signal(int signo)
{
    (void)signo;
    handled++;
}
static void on_signal_away(int signo)
{
    (void)signo;
    handled++;
    siglongjmp(away, 1);
}

static void arm(long usec, long every)
{
    struct itimerval t = {{0, every}, {0, usec}};
    setitimer(ITIMER_REAL, &t, NULL);
}

static void interrupted(void)
{
    int fds[2];
    char c;
    if (pipe(fds))
        abort();
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGALRM, &sa, NULL);
    arm(20000, 0);
    errno = 0;
    long n = read(fds[0], &c, 1);
    printf("read %ld %s, handled %d\n", n, n < 0 ? strerror(errno) : "", handled);
    sa.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &sa, NULL);
    arm(20000, 0);
    pid_t child = fork();
    if (child == 0) {
        usleep(100000);
        if (write(fds[1], "x", 1) != 1)
            abort();
        _exit(0);
    }
    n = read(fds[0], &c, 1);
    printf("restarted read %ld '%c', handled %d\n", n, c, handled);
    waitpid(child, NULL, 0);
    sa.sa_handler = on_signal_away;
    sigaction(SIGALRM, &sa, NULL);
    for (int i = 0; i < 5; i++) {
        if (sigsetjmp(away, 1) == 0) {
            arm(5000, 0);
            n = read(fds[0], &c, 1);
            printf("not reached\n");
        }
    }
    printf("left by longjmp, handled %d\n", handled);
    close(fds[0]);
    close(fds[1]);
}

static void storm(void)
{
    int fd = open("/etc/passwd", O_RDONLY), bad = 0;
    char first[64], again[64];
    if (pread(fd, first, sizeof first, 0) != sizeof first)
        abort();
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGALRM, &sa, NULL);
    handled = 0;
    arm(300, 300);
    int calls = 0;
    while (handled < 300 && calls < 3000000) {
        memset(again, 0, sizeof again);
        long n = pread(fd, again, sizeof again, 0);
        bad += n != sizeof again || memcmp(first, again, sizeof again);
        uint64_t out[18];
        probe(SYS_getpid, out);
        bad += out[1] != 0x1111 || out[7] != 0x7777 || out[12] != 0xcccc || out[14] != 0x89abcde;
        bad += (long)out[0] != getpid();
        probe(SYS_umask, out);
        bad += out[6] != 0x6666 || out[11] != 0xbbbb || out[13] != 0x1234567;
        calls++;
    }
    arm(0, 0);
    umask(022);
    printf("storm: %d wrong, enough signals %d\n", bad, handled >= 300);
    close(fd);
}

static void base_register(void)
{
    static uint64_t block[8] = {0xfeed, 0xbeef};
    unsigned long before = 1, now = 0;
    syscall(SYS_arch_prctl, ARCH_GET_GS, &before);
    printf("GS at first %lx\n", before);
    syscall(SYS_arch_prctl, ARCH_SET_GS, block);
    uint64_t value;
    __asm__ volatile("mov %%gs:8, %0" : "=r"(value));
    struct stat st;
    int ok = 0;
    for (int i = 0; i < 100; i++)
        ok += stat("/", &st) == 0 && getppid() > 0 && plain_getppid() == getppid();
    syscall(SYS_arch_prctl, ARCH_GET_GS, &now);
    printf("GS: %lx %d calls, kept %d\n", (unsigned long)value, ok, now == (unsigned long)block);
    pid_t child = fork();
    if (child == 0) {
        __asm__ volatile("mov %%gs:0, %0" : "=r"(value));
        _exit(value == 0xfeed && stat("/", &st) == 0 ? 7 : 8);
    }
    int status;
    waitpid(child, &status, 0);
    printf("child with GS: %d\n", WEXITSTATUS(status));
    syscall(SYS_arch_prctl, ARCH_SET_GS, 0UL);
    printf("back: %d\n", stat("/", &st));
}

static void *cancelled(void *fds)
{
    char c;
    read(((int *)fds)[0], &c, 1);
    return NULL;
}

static void *answers(void *arg)
{
    *(int *)arg = syscall(SYS_gettid);
    return (void *)(long)(syscall(SYS_getpid) == getpid());
}

static void threads(void)
{
    int fds[2];
    if (pipe(fds))
        abort();
    for (int i = 0; i < 20; i++) {
        pthread_t t;
        void *result;
        pthread_create(&t, NULL, cancelled, fds);
        usleep(i % 4 * 1000);
        pthread_cancel(t);
        pthread_join(t, &result);
        if (result != PTHREAD_CANCELED)
            printf("not cancelled\n");
    }
    int seen[50], same = 0, ok = 0;
    for (int i = 0; i < 50; i++) {
        pthread_t t;
        void *result;
        pthread_create(&t, NULL, answers, &seen[i]);
        pthread_join(t, &result);
        ok += result != NULL;
        for (int k = 0; k < i; k++)
            same += seen[k] == seen[i];
    }
    printf("threads %d, same ids %d, main %d\n", ok, same, syscall(SYS_gettid) == getpid());
}

static void processes(void)
{
    int ok = 0;
    for (int i = 0; i < 20; i++) {
        pid_t me = getpid(), child = fork();
        if (child == 0) {
            if (getppid() != me || getpid() == me || syscall(SYS_gettid) != getpid())
                _exit(1);
            pid_t grandchild = fork();
            if (grandchild == 0)
                _exit(getppid() == me ? 2 : 0);
            int status;
            waitpid(grandchild, &status, 0);
            _exit(WEXITSTATUS(status));
        }
        int status;
        waitpid(child, &status, 0);
        ok += status == 0;
    }
    printf("forks %d\n", ok);
    int fds[2];
    if (pipe(fds))
        abort();
    pid_t orphan_maker = fork();
    if (orphan_maker == 0) {
        if (fork() == 0) {
            pid_t old = getppid();
            char c = 'n';
            for (int i = 0; i < 2000 && getppid() == old; i++)
                usleep(1000);
            if (getppid() != old)
                c = 'y';
            if (write(fds[1], &c, 1) != 1)
                abort();
            _exit(0);
        }
        usleep(20000);
        _exit(0);
    }
    char c;
    waitpid(orphan_maker, NULL, 0);
    if (read(fds[0], &c, 1) != 1)
        abort();
    printf("a new parent is seen: %c\n", c);
    if (getuid() == 0) {
        pid_t child = fork();
        if (child == 0) {
            uid_t before = getuid();
            before = getuid();
            if (setresuid(1234, 1234, 1234))
                _exit(3);
            _exit(before == 0 && getuid() == 1234 && geteuid() == 1234 ? 0 : 1);
        }
        int status;
        waitpid(child, &status, 0);
        printf("a new user is seen: %d\n", status);
    } else {
        printf("a new user is seen: 0\n");
    }
}

static void vforked(void)
{
    pid_t child = vfork();
    if (child == 0) {
        struct stat st;
        stat("/", &st);
        kill(getpid(), SIGKILL);
        _exit(1);
    }
    int status;
    waitpid(child, &status, 0);
    printf("vforked: signal %d, I am %d\n", WTERMSIG(status), getpid() == syscall(SYS_getpid));
}

static void text(void)
{
    long page = sysconf(_SC_PAGESIZE);
    char *start = (char *)((uintptr_t)plain_syscall & -page);
    char copy[64];
    memcpy(copy, plain_syscall, sizeof copy);
    printf("writable text: %d\n", mprotect(start, page, PROT_READ | PROT_WRITE | PROT_EXEC));
    memcpy(plain_syscall, copy, sizeof copy);
    printf("executable again: %d, getppid %d\n", mprotect(start, page, PROT_READ | PROT_EXEC), plain_getppid() == getppid());
    int fd = open("/proc/self/exe", O_RDONLY);
    struct stat st;
    fstat(fd, &st);
    for (int i = 0; i < 10; i++) {
        char *map = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        for (long at = 0; at < st.st_size; at += page) {
            char *again = mmap(map + at, page, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, at);
            if (again != map + at)
                abort();
        }
        munmap(map, st.st_size);
    }
    printf("mapped again\n");
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    registers();
    interrupted();
    storm();
    base_register();
    threads();
    processes();
    vforked();
    text();
    return 0;
}
