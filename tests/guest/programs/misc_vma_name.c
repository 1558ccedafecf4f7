/* PR_SET_VMA_ANON_NAME as far as every kernel agrees: either the name shows in maps, or EINVAL. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

int main(void) {
    char *p = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int result = prctl(0x53564d41, 0, p + 4096, 4096, "my arena");
    int supported = result == 0, shown = 0;
    char line[512], want[64];
    snprintf(want, sizeof want, "%lx-%lx ", (unsigned long)p + 4096, (unsigned long)p + 8192);
    FILE *f = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, f))
        if (strncmp(line, want, strlen(want)) == 0 && strstr(line, "[anon:my arena]")) shown = 1;
    printf("consistent %d\n", supported == shown && (supported || errno == EINVAL));
    p[5000] = 1;
    printf("usable %d\n", munmap(p, 16384) == 0);
    return 0;
}
