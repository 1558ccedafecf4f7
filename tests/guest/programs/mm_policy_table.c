/* get_mempolicy, set_mempolicy, mbind: every mode with every flag, and masks of all sizes. */
#include "file_common.h"
#include <linux/mempolicy.h>

#define GET(mode, nodes, count, at, flags) syscall(SYS_get_mempolicy, mode, nodes, count, at, flags)
#define SET(mode, nodes, count) syscall(SYS_set_mempolicy, mode, nodes, count)
#define BAD ((void *)8)

static void say(long result) { result < 0 ? printf(" %s", strerrorname_np(errno)) : printf(" %ld", result); }

int main(void)
{
    static const unsigned long counts[] = {0, 1, 2, 63, 64, 65, 127, 128, 129, 1024, 1025, 1026, 4096 * 8, 4096 * 8 + 1, 4096 * 8 + 2, 1UL << 40};
    static unsigned long nodes[1024];
    unsigned long one = 1, two = 2, none = 0;
    int mode = -7;
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    for (int i = 0; i < 16; i++) {
        memset(nodes, 0xff, sizeof nodes);
        printf("count %lu:", counts[i]);
        say(GET(&mode, nodes, counts[i], 0, 0));
        printf(" %d %lx %lx %lx", mode, nodes[0], nodes[1], nodes[16]);
        say(GET(0, nodes, counts[i], 0, MPOL_F_MEMS_ALLOWED));
        printf(" %lx %lx\n", nodes[0], nodes[1]);
    }
    for (int kind = -1; kind < 9; kind++)
        for (int bits = 0; bits < 8; bits++) {
            int how = kind | (bits & 1 ? MPOL_F_STATIC_NODES : 0) | (bits & 2 ? MPOL_F_RELATIVE_NODES : 0) | (bits & 4 ? MPOL_F_NUMA_BALANCING : 0);
            printf("mode %d flags %d:", kind, bits);
            say(SET(how, NULL, 0)), say(SET(how, &one, 64)), say(SET(how, &one, 1)), say(SET(how, &one, 2)), say(SET(how, &two, 64)), say(SET(how, &none, 64)), say(SET(how, BAD, 64));
            say(SET(how, &one, 4096 * 8 + 2));
            mode = -7, nodes[0] = 0;
            say(GET(&mode, nodes, 1024, 0, 0));
            printf(" %x %lx", mode, nodes[0]);
            say(syscall(SYS_mbind, page, 4096, how, &one, 64, 0)), say(syscall(SYS_mbind, page, 4096, how, &one, 64, 0x10));
            say(GET(&mode, nodes, 1024, page, MPOL_F_ADDR));
            printf(" %x\n", mode);
        }
    SET(0, 0, 0);
    *page = 1;
    for (int flags = 0; flags < 16; flags++) {
        printf("get %d:", flags);
        say(GET(&mode, nodes, 1024, page, flags)), say(GET(&mode, nodes, 1024, 0, flags)), say(GET(&mode, nodes, 1024, 8, flags)), say(GET(0, 0, 0, page, flags)), say(GET(BAD, 0, 0, page, flags));
        say(GET(&mode, BAD, 1024, page, flags));
        printf("\n");
    }
    return 0;
}
