/* mremap(2) with MREMAP_DONTUNMAP: contents move, the old area stays and is empty (or the file's). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#define SIZE 65536L

static char *move(const char *name, char *old, long from, long to, int flags, char *at)
{
    char *new = (char *)syscall(SYS_mremap, old, from, to, flags, at);
    if (new == MAP_FAILED)
        printf("%s: %s\n", name, strerrorname_np(errno));
    else
        printf("%s: moved %d\n", name, new != old);
    return new;
}

int main(void)
{
    int how = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;
    char *a = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(a, 'x', SIZE);
    char *b = move("anonymous", a, SIZE, SIZE, how, NULL);
    printf("old %d new %c %c\n", a[5], b[5], b[SIZE - 1]);
    a[0] = 'o';
    char *room = mmap(NULL, 4 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *c = move("fixed", b, SIZE, SIZE, how | MREMAP_FIXED, room + SIZE);
    printf("there %d: old %d new %c\n", c == room + SIZE, b[5], c[5]);
    char *hint = room + 3 * SIZE;
    munmap(hint, SIZE);
    c = move("hint", c, SIZE, SIZE, how, hint);
    printf("there %d: %c\n", c == hint, c[9]);
    b = move("part", c + 4096, 8192, 8192, how, NULL);
    printf("%c %d %c %c\n", c[0], c[4096], c[12288], b[0]);
    move("resize", a, SIZE, 2 * SIZE, how, NULL);
    move("shrink", a, SIZE, 4096, how, NULL);
    move("without maymove", a, SIZE, SIZE, MREMAP_DONTUNMAP, NULL);
    move("misaligned hint", a, SIZE, SIZE, how, (char *)12345);
    move("overlap", a, SIZE, SIZE, how, a + 4096);
    move("nothing", a, 0, SIZE, how, NULL);
    move("unmapped", (char *)0x10000, SIZE, SIZE, how, NULL);

    char *s = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    s[0] = 'q';
    char *t = move("shared", s, 8192, 8192, how, NULL);
    t[1] = 'r';
    printf("%c %c\n", s[0], s[1]);
    int fd = open("file", O_RDWR | O_CREAT, 0600);
    write(fd, "file contents", 13);
    char *f = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    f[0] = 'F';
    char *g = move("file", f, 4096, 4096, how, NULL);
    printf("%.13s %.13s\n", f, g);
    if (!fork()) {
        printf("child: %c %c %c\n", a[0], c[0], g[0]);
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    printf("unmap %d %d %d\n", munmap(a, SIZE), munmap(f, 4096), munmap(g, 4096));
    for (int advice = 10; advice < 16; advice++)
        printf("advice %d: %d\n", advice, madvise(c, 4096, advice));
    return 0;
}
