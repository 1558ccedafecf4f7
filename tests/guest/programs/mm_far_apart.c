/* Memory far apart: many places a GiB from each other, one after the other and all at once, and in a forked child. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define GIB (1UL << 30)
#define FIRST 0x200000000000UL
#define SIZE (3UL << 20)

static unsigned char *map(unsigned long place)
{
    unsigned char *at = (unsigned char *)(FIRST + place * GIB + (place % 7) * 4096);
    void *got = mmap(at, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    return got == at ? at : NULL;
}

static void fill(unsigned char *at, unsigned long place)
{
    for (unsigned long i = 0; i < SIZE; i += SIZE / 3)
        at[i] = place % 251 + i % 3 + 1;
}

static int is_as_filled(const unsigned char *at, unsigned long place)
{
    for (unsigned long i = 0; i < SIZE; i += SIZE / 3)
        if (at[i] != place % 251 + i % 3 + 1)
            return 0;
    return 1;
}

static int one_after_the_other(unsigned long from, unsigned long to)
{
    int wrong = 0;
    for (unsigned long place = from; place < to; place++) {
        unsigned char *at = map(place);
        if (!at)
            return -1;
        for (unsigned long i = 0; i < SIZE; i += 4096)
            wrong += at[i] != 0; /* no byte from another place */
        fill(at, place);
        wrong += !is_as_filled(at, place);
        munmap(at, SIZE);
    }
    return wrong;
}

static int all_at_once(unsigned long from, unsigned long to)
{
    int wrong = 0, status;
    for (unsigned long place = from; place < to; place++)
        fill(map(place), place);
    for (unsigned long place = from; place < to; place += 2)
        munmap((void *)(FIRST + place * GIB + (place % 7) * 4096), SIZE);
    wrong += one_after_the_other(to, to + 40);
    for (unsigned long place = from + 1; place < to; place += 2)
        wrong += !is_as_filled((unsigned char *)(FIRST + place * GIB + (place % 7) * 4096), place);
    fflush(stdout);
    if (fork() == 0) {
        for (unsigned long place = from + 1; place < to; place += 2)
            wrong += !is_as_filled((unsigned char *)(FIRST + place * GIB + (place % 7) * 4096), place);
        _exit(wrong + one_after_the_other(from + 1000, from + 1040));
    }
    wait(&status);
    printf("child %d\n", WEXITSTATUS(status));
    for (unsigned long place = from + 1; place < to; place += 2)
        munmap((void *)(FIRST + place * GIB + (place % 7) * 4096), SIZE);
    return wrong;
}

int main(void)
{
    printf("one after the other: %d wrong\n", one_after_the_other(0, 200));
    printf("all at once: %d wrong\n", all_at_once(5000, 5090));
    printf("again: %d wrong\n", one_after_the_other(0, 20));
    return 0;
}
