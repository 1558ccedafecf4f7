/* PEEK and POKE, also where the tracee itself could not; /proc/PID/mem; a breakpoint in text. */
#include "ptrace_common.h"

static long data = 0x1122334455667788;
static const char constant[] = "constant text that cannot be written";
__attribute__((noinline)) int target(int x)
{
    __asm__ volatile("nop");
    return x + 1;
}

static long peek(int pid, long addr)
{
    long value = 0;
    errno = 0;
    if (pt(PTRACE_PEEKTEXT, pid, addr, (long)&value) < 0)
        printf("peek failed with %d\n", errno);
    return value;
}

int main(void)
{
    start();
    char *none = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *pair = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(none, "hidden");
    strcpy(shared, "shared");
    memset(pair, 'p', 8192);
    mprotect(none, 4096, PROT_NONE);
    mprotect(shared, 4096, PROT_READ);
    mprotect(pair + 4096, 4096, PROT_READ);
    int pid = fork();
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        printf("data %lx\n", data);
        printf("%s\n", constant);
        mprotect(none, 4096, PROT_READ);
        printf("%s %s %.8s\n", none, shared, pair + 4092);
        int a = target(1);
        int b = target(10);
        printf("%d %d\n", a, b);
        raise(SIGSTOP);
        printf("%s\n", constant);
        int c = fork();
        if (!c) {
            printf("child %s\n", constant);
            _exit(0);
        }
        waitpid(c, NULL, 0);
        _exit(5);
    }
    step("stop", pid);
    printf("%lx\n", peek(pid, (long)&data));
    T(pt(PTRACE_POKEDATA, pid, (long)&data, 0x99));
    printf("%lx, ours %lx\n", peek(pid, (long)&data), data);
    T(pt(PTRACE_POKETEXT, pid, (long)constant, 0x4554495257));
    memcpy((char[8]){0}, constant, 8);
    long word = peek(pid, (long)constant + 8);
    T(pt(PTRACE_POKETEXT, pid, (long)constant, *(long *)"WRITTEN "));
    printf("ours: %s\n", constant);
    word = peek(pid, (long)none);
    printf("hidden: %.8s\n", (char *)&word);
    T(pt(PTRACE_POKEDATA, pid, (long)none, *(long *)"SHOWN\0\0"));
    T(pt(PTRACE_POKEDATA, pid, (long)shared, *(long *)"CHANGED"));
    T(pt(PTRACE_POKEDATA, pid, (long)pair + 4092, *(long *)"QQQQRRRR"));
    word = peek(pid, (long)pair + 4092);
    printf("pair: %.8s\n", (char *)&word);
    T(pt(PTRACE_PEEKDATA, pid, 8, (long)&word));
    T(pt(PTRACE_POKEDATA, pid, 8, 1));
    T(pt(PTRACE_PEEKDATA, pid, -8L, (long)&word));
    T(pt(PTRACE_PEEKDATA, pid, (long)&data, 8));

    /* A breakpoint. */
    long original = peek(pid, (long)target);
    T(pt(PTRACE_POKETEXT, pid, (long)target, (original & ~0xffL) | 0xcc));
    pt(PTRACE_CONT, pid, 0, 0);
    step("breakpoint", pid);
    struct user_regs_struct r;
    siginfo_t si;
    pt(PTRACE_GETREGS, pid, 0, (long)&r);
    pt(PTRACE_GETSIGINFO, pid, 0, (long)&si);
    printf("rip +%ld x %lld code %x orig %lld\n", (long)r.rip - (long)target, r.rdi, si.si_code, (long long)r.orig_rax);
    pt(PTRACE_POKETEXT, pid, (long)target, original);
    r.rip--;
    r.rdi = 100;
    pt(PTRACE_SETREGS, pid, 0, (long)&r);
    pt(PTRACE_SINGLESTEP, pid, 0, 0);
    step("over it", pid);
    pt(PTRACE_POKETEXT, pid, (long)target, (original & ~0xffL) | 0xcc);
    pt(PTRACE_CONT, pid, 0, 0);
    step("breakpoint", pid);
    pt(PTRACE_GETREGS, pid, 0, (long)&r);
    printf("x %lld\n", r.rdi);
    pt(PTRACE_POKETEXT, pid, (long)target, original);
    r.rip--;
    pt(PTRACE_SETREGS, pid, 0, (long)&r);
    pt(PTRACE_CONT, pid, 0, 0);
    step("stop", pid);

    /* /proc/PID/mem. */
    char name[64], buffer[16384];
    sprintf(name, "/proc/%d/mem", pid);
    int fd = open(name, O_RDWR);
    T(pread(fd, buffer, 16, (long)constant) == 16);
    printf("%.16s\n", buffer);
    T(pwrite(fd, "through mem", 11, (long)constant));
    T(pwrite(fd, "x", 1, (long)shared));
    T(pwrite(fd, "x", 1, 16));
    T(pread(fd, buffer, 1, 16));
    T(pread(fd, buffer, 8192, (long)pair));
    printf("%.8s\n", buffer + 4092);
    T(lseek(fd, (long)constant + 8, SEEK_SET) == (long)constant + 8);
    T(write(fd, "MEM", 3));
    T(read(fd, buffer, 5));
    printf("%.5s\n", buffer);
    sprintf(name, "/proc/%d/task/%d/mem", pid, pid);
    int other = open(name, O_RDWR);
    T(pwrite(other, "task", 4, (long)constant + 12));
    pt(PTRACE_CONT, pid, 0, 0);
    for (int i = 0; i < 5; i++) {
        int status = step("on", pid);
        if (!WIFSTOPPED(status))
            break;
        pt(PTRACE_CONT, pid, 0, 0);
    }
    T(pread(fd, buffer, 16, (long)constant));

    /* Oneself. */
    fd = open("/proc/self/mem", O_RDWR);
    T(pwrite(fd, "self", 4, (long)constant));
    printf("%s\n", constant);
    struct iovec local = {"LOCAL", 5}, remote = {(void *)constant, 5};
    T(process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
    return 0;
}
