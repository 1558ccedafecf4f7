/* counts CALLS PAGES: makes so many system calls, and touches so many pages for the first time. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int count, char **words)
{
    long calls = atol(words[1]), pages = atol(words[2]);
    for (long i = 0; i < calls; i++)
        syscall(SYS_capget, 0, 0); /* never answered without the sentry */
    volatile char *at = mmap(0, (pages + 1) * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long i = 0; i < pages; i++)
        at[i * 4096] = 1;
    return 0;
}
