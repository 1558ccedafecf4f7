/* /proc/self/maps and smaps: every kind of area, in order, with the right rights. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int global = 1;
static char found_name[256], found_mode[8];
static unsigned long found_offset, found_ino;

static int find(const void *address) {
    char line[512];
    FILE *f = fopen("/proc/self/maps", "r");
    int found = 0;
    while (fgets(line, sizeof line, f)) {
        unsigned long start, end, offset, ino;
        unsigned dev1, dev2;
        char mode[8], name[256] = "";
        int n = sscanf(line, "%lx-%lx %4s %lx %x:%x %lu %255[^\n]", &start, &end, mode, &offset, &dev1, &dev2, &ino, name);
        if (n < 7) printf("bad line %s", line);
        if ((unsigned long)address >= start && (unsigned long)address < end) {
            found = 1;
            strcpy(found_name, name);
            strcpy(found_mode, mode);
            found_offset = offset;
            found_ino = ino;
        }
    }
    fclose(f);
    return found;
}

int main(void) {
    char exe[256] = {0};
    int local = 0, found;
    readlink("/proc/self/exe", exe, sizeof exe - 1);
    found = find(main);
    printf("code %d %s %d\n", found, found_mode, strcmp(found_name, exe) == 0);
    found = find(&global);
    printf("data %d %s\n", found, found_mode);
    found = find(&local);
    printf("stack %d %s %s\n", found, found_mode, found_name);
    void *heap = sbrk(8192);
    found = find(heap);
    printf("heap %d %s %s\n", found, found_mode, found_name);
    char *anon = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(anon + 4096, 4096, PROT_NONE);
    found = find(anon);
    printf("anon %d %s [%s]\n", found, found_mode, found_name);
    found = find(anon + 4096);
    printf("hole %d %s\n", found, found_mode);
    munmap(anon, 4096);
    found = find(anon);
    printf("unmapped %d\n", found);
    int fd = open(exe, O_RDONLY);
    struct stat st;
    fstat(fd, &st);
    char *file = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 4096);
    found = find(file);
    printf("file %d %s %lx %d %d\n", found, found_mode, found_offset, strcmp(found_name, exe) == 0, found_ino == st.st_ino);
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    found = find(shared);
    printf("shared %d %s %s\n", found, found_mode, found_name);
    char path[] = "/tmp/proc_maps_XXXXXX";
    fd = mkstemp(path);
    ftruncate(fd, 4096);
    char *gone = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    unlink(path);
    found = find(gone);
    printf("deleted %d %s %d\n", found, found_mode, strstr(found_name, " (deleted)") != NULL);
    /* smaps has the same areas, each with a size that fits. */
    char line[512];
    unsigned long start, end, size;
    int areas = 0, good = 0;
    FILE *f = fopen("/proc/self/smaps", "r");
    while (fgets(line, sizeof line, f)) {
        char mode[8];
        if (sscanf(line, "%lx-%lx %4[rwxps-] ", &start, &end, mode) == 3) areas++;
        if (sscanf(line, "Size: %lu kB", &size) == 1) good += size * 1024 == end - start;
    }
    printf("smaps %d\n", areas > 5 && areas == good);
    return 0;
}
