/* getrusage(RUSAGE_CHILDREN) of a process that asks for the first time when its children are gone: they count all the same. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (30 << 20)

static void use(void)
{
    char *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(p, SIZE, MADV_NOHUGEPAGE);
    memset(p, 1, SIZE);
}

int main(void)
{
    if (fork() == 0) { /* a grandchild, whose parent does not ask either */
        if (fork() == 0) {
            use();
            _exit(0);
        }
        wait(NULL);
        _exit(0);
    }
    wait(NULL);
    struct rusage r;
    for (int i = 0; i < 200; i++) { /* in cloche the figures come with the end of the host's process */
        getrusage(RUSAGE_CHILDREN, &r);
        if (r.ru_maxrss >= (SIZE >> 10) - 1024 && r.ru_minflt >= SIZE / 4096)
            break;
        usleep(10000);
    }
    printf("size %d faults %d\n", r.ru_maxrss >= (SIZE >> 10) - 1024 && r.ru_maxrss < (SIZE >> 10) + 12 * 1024,
           r.ru_minflt >= SIZE / 4096 && r.ru_minflt < SIZE / 4096 + 3000);
    return 0;
}
