/* A static program that maps another program's text, as emulators and loaders of their own do, finds the file's
 * contents in memory, and no other mapping than its own. */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int mappings(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    int count = 0;
    while (fgets(line, sizeof line, maps)) count++;
    fclose(maps);
    return count;
}

static void check(const char *path) {
    int fd = open(path, O_RDONLY);
    Elf64_Ehdr header;
    if (fd < 0 || pread(fd, &header, sizeof header, 0) != sizeof header) {
        printf("no program\n");
        return;
    }
    for (int i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr part;
        pread(fd, &part, sizeof part, header.e_phoff + i * sizeof part);
        if (part.p_type != PT_LOAD || !(part.p_flags & PF_X)) continue;
        size_t size = (part.p_filesz + 4095) & ~4095UL;
        /* Where nothing else is, as an emulator would place it. */
        char *place = mmap(0, size + (64 << 20), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        munmap(place, size + (64 << 20));
        int before = mappings();
        char *text = mmap(place + (32 << 20), size, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, part.p_offset);
        printf("mappings: %d more\n", mappings() - before);
        char *copy = malloc(part.p_filesz);
        printf("read %d\n", pread(fd, copy, part.p_filesz, part.p_offset) == part.p_filesz);
        printf("same %d\n", memcmp(copy, text, part.p_filesz) == 0);
        munmap(text, size);
        free(copy);
    }
    close(fd);
}

int main(void) {
    mappings();
    malloc(100);
    check("/lib64/ld-linux-x86-64.so.2");
    check("/lib/x86_64-linux-gnu/libc.so.6");
    check("/bin/bash");
    return 0;
}
