/* A shared mapping, read, write and another process see the same bytes; a private one keeps its own. */
#include <fcntl.h>
#include <signal.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf jump;

static void bus(int sig)
{
    siglongjmp(jump, sig);
}

int main(void)
{
    char b[32] = "";
    int fd = open("f", O_CREAT | O_RDWR, 0644);
    write(fd, "hello world", 11);
    char *s = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    printf("%.11s %.11s\n", s, p);
    memcpy(s, "HELLO", 5);
    p[0] = '#';
    pread(fd, b, 11, 0);
    printf("file %s private %.11s\n", b, p);
    pwrite(fd, "WORLD", 5, 6);
    printf("shared %.11s\n", s);
    if (fork() == 0) {
        s[0] = 'J';
        p[1] = '@';
        _exit(0);
    }
    wait(0);
    pread(fd, b, 11, 0);
    printf("after the child: %s, private %.3s\n", b, p);
    printf("msync %d\n", msync(s, 4096, MS_SYNC));
    int r = open("f", O_RDONLY);
    printf("read-only shared %d\n", mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, r, 0) == MAP_FAILED);
    char *ro = mmap(0, 4096, PROT_READ, MAP_SHARED, r, 0);
    printf("%.5s mprotect %d\n", ro, mprotect(ro, 4096, PROT_READ | PROT_WRITE));
    s[5] = '-';
    printf("%.6s\n", ro);
    unlink("f");
    s[1] = 'u';
    pread(fd, b, 11, 0);
    printf("unlinked: %s\n", b);
    ftruncate(fd, 5 * 4096);
    char *more = mmap(0, 5 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    more[4 * 4096] = 'z';
    pread(fd, b, 1, 4 * 4096);
    printf("grown %c\n", b[0]);
    ftruncate(fd, 4096);
    signal(SIGBUS, bus);
    int sig = sigsetjmp(jump, 1);
    if (!sig)
        more[2 * 4096] = 'x';
    printf("after truncation: %s\n", sig == SIGBUS ? "SIGBUS" : "written");
    return 0;
}
