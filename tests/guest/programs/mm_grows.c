/* Areas that grow downwards (MAP_GROWSDOWN), reached by system calls and by handlers' frames as well as by the program. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
#define AROUND (64L << 20)

static char *top; /* the end of the area */

/* Where the area at `top` begins now, in pages below it. */
static long begins(void)
{
    char line[512];
    FILE *f = fopen("/proc/self/maps", "r");
    long found = -1;
    while (fgets(line, sizeof line, f)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start < (uintptr_t)top && (uintptr_t)top <= end)
            found = ((uintptr_t)top - start) / PAGE;
    }
    fclose(f);
    return found;
}

/* A page that grows downwards, with nothing for 64 MiB below. */
static char *fresh(int prot)
{
    char *room = mmap(NULL, AROUND + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    munmap(room, AROUND + PAGE);
    top = room + AROUND + PAGE;
    char *page = mmap(top - PAGE, PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0);
    if (page == MAP_FAILED)
        perror("mmap");
    return page;
}

#define SAY(name, call)                                                                                                 \
    do {                                                                                                                \
        errno = 0;                                                                                                      \
        long result_ = (long)(call);                                                                                    \
        int error_ = errno;                                                                                             \
        printf("%s: %ld %s, %ld pages\n", name, result_, result_ < 0 ? strerror(error_) : "-", begins());               \
        fflush(stdout);                                                                                                 \
    } while (0)

static volatile int handled;
static void handler(int signo) { handled = signo; }

static void under(const char *name, void (*run)(void))
{
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        run();
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    printf("%s: exit %d signal %d\n", name, WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

static void large(void)
{
    char *page = fresh(PROT_READ | PROT_WRITE);
    int fd = open("/proc/self/exe", O_RDONLY), zero = open("/dev/zero", O_RDONLY), full = open("/dev/urandom", O_RDONLY);
    char reference[16384];
    page[0] = 77;
    SAY("pread 16 KiB of a file", pread(fd, page - 12288, 16384, 0));
    pread(fd, reference, 16384, 0);
    printf("same: %d\n", !memcmp(page - 12288, reference, 16384));
    page = fresh(PROT_READ | PROT_WRITE);
    SAY("read 1 MiB of zeros", read(zero, page - (1 << 20) + 1, 1 << 20));
    page = fresh(PROT_READ | PROT_WRITE);
    SAY("read 200 KiB of noise", read(full, page - 200000, 200000));
    int sum = 0;
    for (int i = 0; i < 200000; i++)
        sum |= page[i - 200000];
    printf("noise: %d\n", sum != 0);
    page = fresh(PROT_READ | PROT_WRITE);
    int pipes[2];
    pipe(pipes);
    write(pipes[1], "0123456789", 10);
    SAY("read a pipe", read(pipes[0], page - 3 * PAGE, 10));
    printf("%.10s\n", page - 3 * PAGE);
    page = fresh(PROT_READ | PROT_WRITE);
    memset(page, 'y', PAGE);
    SAY("write of both", write(pipes[1], page - 10, 20));
    SAY("read it again", read(pipes[0], reference, 100));
    printf("%d %.10s\n", reference[9], reference + 10);
    struct iovec v[2] = {{reference, 8}, {page - 5 * PAGE, 8}};
    SAY("writev", writev(pipes[1], v, 2));
    write(pipes[1], "0123456789012345", 16);
    v[1].iov_base = page - 9 * PAGE;
    SAY("readv", readv(pipes[0], v, 2));
    int both[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, both);
    write(both[0], "abcdef", 6);
    SAY("recv", recv(both[1], page - 12 * PAGE, 6, 0));
    printf("%.6s\n", page - 12 * PAGE);
    SAY("send", send(both[0], page - 14 * PAGE, 6, 0));
    SAY("getrandom", syscall(SYS_getrandom, page - 20 * PAGE, 5000, 0));
}

static void small(void)
{
    char *page = fresh(PROT_READ | PROT_WRITE);
    SAY("uname", uname((struct utsname *)(page - 2 * PAGE)));
    printf("%s\n", ((struct utsname *)(page - 2 * PAGE))->sysname);
    SAY("stat", stat("/", (struct stat *)(page - 4 * PAGE)));
    SAY("fstat", fstat(0, (struct stat *)(page - 6 * PAGE - 20)));
    SAY("statfs", statfs("/proc", (struct statfs *)(page - 8 * PAGE)));
    printf("%d %lx\n", S_ISDIR(((struct stat *)(page - 4 * PAGE))->st_mode), (long)((struct statfs *)(page - 8 * PAGE))->f_type);
    SAY("open of an empty name", open(page - 9 * PAGE, O_RDONLY));
    SAY("nanosleep", nanosleep((struct timespec *)(page - 11 * PAGE), NULL));
    SAY("clock_gettime", syscall(SYS_clock_getres, CLOCK_MONOTONIC, page - 13 * PAGE));
    SAY("getcwd", syscall(SYS_getcwd, page - 15 * PAGE - 10, 4096) > 0);
    SAY("sigprocmask", syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, page - 17 * PAGE, 8));
    SAY("getrlimit", getrlimit(RLIMIT_CORE, (struct rlimit *)(page - 19 * PAGE)));
    SAY("wait4", syscall(SYS_wait4, -1, page - 21 * PAGE, WNOHANG, NULL));
    pid_t pid = fork();
    if (pid == 0)
        _exit(3);
    SAY("wait4", syscall(SYS_wait4, pid, page - 21 * PAGE, 0, page - 30 * PAGE) == pid);
    printf("%x\n", *(int *)(page - 21 * PAGE));
    SAY("bad descriptor", read(99, page - 40 * PAGE, 10));
    SAY("mincore", mincore(page - 40 * PAGE, PAGE, (unsigned char *)page));
    SAY("too far", uname((struct utsname *)(page - (16L << 20))));
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        SAY("in the child", uname((struct utsname *)(page - 50 * PAGE)));
        fflush(stdout);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    SAY("an area that grows was copied by fork", pid >= 0);
}

static void limits(void)
{
    struct rlimit limit = {20 * PAGE, RLIM_INFINITY};
    char *page = fresh(PROT_READ | PROT_WRITE);
    getrlimit(RLIMIT_STACK, &limit);
    limit.rlim_cur = 20 * PAGE;
    setrlimit(RLIMIT_STACK, &limit);
    SAY("at the limit", uname((struct utsname *)(page - 19 * PAGE)));
    SAY("over the limit", uname((struct utsname *)(page - 20 * PAGE)));
    limit.rlim_cur = 1 << 20;
    setrlimit(RLIMIT_STACK, &limit);
    SAY("with more", uname((struct utsname *)(page - 20 * PAGE)));
    page = fresh(PROT_READ | PROT_WRITE);
    mmap(page - 300 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    limit.rlim_cur = 8 << 20;
    setrlimit(RLIMIT_STACK, &limit);
    SAY("beside the guard", uname((struct utsname *)(page - 43 * PAGE)));
    SAY("into the guard", uname((struct utsname *)(page - 44 * PAGE)));
    SAY("into the guard", read(open("/dev/zero", O_RDONLY), page - 100 * PAGE, 100));
    page = fresh(PROT_READ);
    SAY("read only, written", uname((struct utsname *)(page - 3 * PAGE)));
    SAY("read only, read", open(page - 5 * PAGE, O_RDONLY));
    page = fresh(PROT_NONE);
    SAY("nothing, written", uname((struct utsname *)(page - 3 * PAGE)));
    SAY("nothing, read", open(page - 5 * PAGE, O_RDONLY));
    page = fresh(PROT_READ | PROT_WRITE);
    mlock(page, PAGE);
    SAY("locked", uname((struct utsname *)(page - 3 * PAGE)));
}

static void frames(void)
{
    char *page = fresh(PROT_READ | PROT_WRITE);
    stack_t stack = {.ss_sp = page - 255 * PAGE, .ss_size = 250 * PAGE};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaltstack(&stack, NULL);
    sigaction(SIGUSR1, &action, NULL);
    SAY("before", 0);
    raise(SIGUSR1);
    printf("handled %d, grown %d\n", handled, begins() > 5);
}

static void refused_frame(void)
{
    char *page = fresh(PROT_READ | PROT_WRITE);
    stack_t stack = {.ss_sp = page - (32L << 20), .ss_size = 250 * PAGE};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    sigaltstack(&stack, NULL);
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    printf("handled %d\n", handled);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    under("large", large);
    under("small", small);
    under("limits", limits);
    under("frames", frames);
    under("refused", refused_frame);
    return 0;
}
