/* /proc/PID/numa_maps: the policies of areas, and what is mapped there. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGES 16
#define STATIC 0x8000
#define RELATIVE 0x4000
#define BALANCING 0x2000

static void show(const char *what, void *address) {
    char line[4096];
    FILE *file = fopen("/proc/self/numa_maps", "r");
    if (!file) {
        perror("numa_maps");
        return;
    }
    while (fgets(line, sizeof line, file))
        if (strtoul(line, NULL, 16) == (unsigned long)address) {
            char *at = strchr(line, ' ') + 1;
            for (char *end = strstr(at, "="); end; end = strstr(end + 1, "="))  /* without the figures */
                if (strncmp(end - 2, "N0", 2) == 0 || strncmp(end - 4, "anon", 4) == 0 || strncmp(end - 6, "mapped", 6) == 0) {
                    while (*end != ' ') end--;
                    *end = 0;
                    break;
                }
            at[strcspn(at, "\n")] = 0;
            char *path = strstr(at, "file="), *last = strrchr(at, '/');
            if (path) path[5] = 0;
            printf("%s: %s%s\n", what, at, path ? last : "");
        }
    fclose(file);
}

int main(void) {
    static const int modes[] = {0, 1, 2, 3, 4, 5, 6, 1 | STATIC, 2 | RELATIVE, 2 | BALANCING, 5 | STATIC | BALANCING, 3 | RELATIVE};
    unsigned long zero = 1;
    char *room = mmap(NULL, PAGES * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *at = mmap(room + 4096, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    show("nothing", at);
    for (unsigned i = 0; i < sizeof modes / sizeof *modes; i++) {
        int mode = modes[i] & 0xff;
        int has_nodes = mode != 0 && mode != 4;
        long r = syscall(SYS_mbind, at, 4096, modes[i], has_nodes ? &zero : NULL, has_nodes ? 64 : 0, 0);
        printf("mbind %x: %ld\n", modes[i], r);
        at[0] = 1;
        show("area", at);
    }
    syscall(SYS_mbind, at, 4096, 0, NULL, 0, 0);
    syscall(SYS_set_mempolicy, 2 | STATIC, &zero, 64);
    show("of the task", at);
    int fd = open("a b=c", O_RDWR | O_CREAT, 0644);
    write(fd, "x", 1);
    at = mmap(room + 3 * 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    show("file", at);
    unlink("a b=c");
    return 0;
}
