/* remap_file_pages(2) moves pages of a shared mapping within their file. */
#include "event_show.h"
#include <sys/mman.h>

enum { PAGE = 4096, COUNT = 8 };

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
    return 0;
}
