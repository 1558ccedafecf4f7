/* mmap, mprotect, munmap, mremap, madvise, brk: results and errors. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
static sigjmp_buf env;
static volatile int got, code;
static void handler(int sig, siginfo_t *info, void *ctx) { got = sig; code = info->si_code; siglongjmp(env, 1); }
static void touch(volatile char *p, int write)
{
    got = 0;
    if (sigsetjmp(env, 1) == 0) {
        if (write) *p = 1; else (void)*p;
    }
    printf("touch %s: sig %d code %d\n", write ? "w" : "r", got, code);
    code = 0;
}
#define E(x) do { long r = (long)(x); printf("%s = %d %s\n", #x, r == -1 ? -1 : 0, r == -1 ? strerror(errno) : ""); } while (0)
int main(void)
{
    struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
    char *p = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(p, "hello");
    printf("%s %d\n", p, p[4096]);
    E(mprotect(p, 4096, PROT_READ));
    touch(p, 0);
    touch(p, 1);
    E(mprotect(p, 4096, PROT_NONE));
    touch(p, 0);
    E(mprotect(p, 4096, PROT_READ | PROT_WRITE));
    touch(p, 1);
    E(munmap(p + 4096, 4096));
    touch(p + 4096, 0);
    E(mprotect(p, 3 * 4096, PROT_READ));
    E(munmap(p + 1, 4096));
    E(munmap(p, 0));
    E(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    E(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, -1, 0));
    E(mmap(NULL, 4096, PROT_READ, MAP_ANONYMOUS, -1, 0));
    E(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 100));
    p[2 * 4096] = 5;
    char *q = mremap(p + 2 * 4096, 4096, 4 * 4096, MREMAP_MAYMOVE);
    printf("moved %d value %d new %d\n", q != MAP_FAILED, q[0], q[3 * 4096]);
    q[3 * 4096] = 9;
    char *s = mremap(q, 4 * 4096, 4096, 0);
    printf("shrunk %d\n", s == q);
    touch(q + 4096, 0);
    E(mremap(q, 4096, 4096 * 2, MREMAP_FIXED, q));
    E(madvise(q, 4096, MADV_DONTNEED));
    printf("zero %d\n", q[0]);
    E(madvise(q, 4096, 12345));
    int fd = open("file", O_RDWR | O_CREAT, 0644);
    write(fd, "0123456789", 10);
    char *f = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    printf("file %.10s\n", f);
    f[0] = 'X';
    char buf[11] = {0};
    pread(fd, buf, 10, 0);
    printf("read %s\n", buf);
    pwrite(fd, "Y", 1, 1);
    printf("map %c%c\n", f[0], f[1]);
    touch(f + 4096, 0);
    char *g = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    g[2] = 'Z';
    pread(fd, buf, 10, 0);
    printf("private %s %.3s\n", buf, g);
    E(msync(f, 4096, MS_SYNC));
    E(msync(f, 4096, 0x40));
    int ro = open("file", O_RDONLY);
    E(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0));
    char *h = mmap(NULL, 4096, PROT_READ, MAP_SHARED, ro, 0);
    E(mprotect(h, 4096, PROT_READ | PROT_WRITE));
    int wo = open("file", O_WRONLY);
    E(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, wo, 0));
    int *sh = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (fork() == 0) { *sh = 77; g[0] = 'Q'; _exit(0); }
    wait(NULL);
    printf("shared %d private %c\n", *sh, g[0]);
    void *b = sbrk(0);
    E(brk((char *)b + 100000));
    memset(b, 1, 100000);
    printf("brk %d\n", (char *)sbrk(0) == (char *)b + 100000);
    E(brk(b));
    char *fx = mmap(q, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    printf("noreplace %d %s\n", fx == MAP_FAILED, strerror(errno));
    return 0;
}
