/* remap_file_pages(2) moves pages of a shared mapping within their file. */
#include "event_show.h"
#include <sys/mman.h>

enum { PAGE = 4096, COUNT = 8 };

/* So many areas that the call is made in slices: another order, then all of it as it was. */
static void many(void)
{
    enum { PAGES = 3000 };
    char *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    long sum = 0;
    for (long i = 0; i < PAGES; i++)
        *(long *)(at + i * PAGE) = i;
    for (long i = 0; i < PAGES; i += 2)
        remap_file_pages(at + i * PAGE, PAGE, 0, PAGES - 1 - i, 0);
    mprotect(at + 2500 * PAGE, PAGE, PROT_READ);
    SHOW(remap_file_pages(at, PAGES * PAGE, 0, 0, 0));
    printf("%ld %ld\n", *(long *)at, *(long *)(at + PAGE));
    mprotect(at + 2500 * PAGE, PAGE, PROT_READ | PROT_WRITE);
    munmap(at + 2600 * PAGE, PAGE);
    SHOW(remap_file_pages(at, PAGES * PAGE, 0, 0, 0));
    SHOW(remap_file_pages(at, 2600 * PAGE, 0, 1, 0));
    for (long i = 0; i < 2600; i++)
        sum += *(long *)(at + i * PAGE) == i + 1;
    printf("%ld\n", sum);
    SHOW(remap_file_pages(at, 2600 * PAGE, 0, 0, 0));
    printf("%ld\n", *(long *)(at + 2599 * PAGE));
}

int main(void)
{
    int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0600);
    ftruncate(fd, COUNT * PAGE);
    char *base = mmap(NULL, COUNT * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (int i = 0; i < COUNT; i++)
        base[i * PAGE] = 'a' + i;
    for (int i = 0; i < COUNT; i++)
        SHOW(remap_file_pages(base + i * PAGE, PAGE, 0, COUNT - 1 - i, 0));
    for (int i = 0; i < COUNT; i++)
        putchar(base[i * PAGE]);
    putchar('\n');
    base[0] = 'X';
    char byte = 0;
    pread(fd, &byte, 1, (COUNT - 1) * PAGE);
    printf("%c\n", byte);
    SHOW(remap_file_pages(base, PAGE, PROT_READ, 0, 0));
    SHOW(remap_file_pages(base, 0, 0, 0, 0));
    SHOW(remap_file_pages(base, COUNT * PAGE, 0, 0, 0));
    char *private = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SHOW(remap_file_pages(private, PAGE, 0, 0, 0));
    munmap(private, PAGE);
    SHOW(remap_file_pages(private, PAGE, 0, 0, 0));
    char *anon = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    anon[PAGE] = 'q';
    SHOW(remap_file_pages(anon, PAGE, 0, 1, 0));
    printf("%c\n", anon[0]);
    many();
    return 0;
}
