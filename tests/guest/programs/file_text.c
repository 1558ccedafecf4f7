/* Code that is mapped from a file has the file's contents of that moment, even if another process writes them by a
 * mapping. */
#include "file_common.h"
#include <sys/mman.h>
#include <sys/syscall.h>

extern char __executable_start;

__attribute__((noinline, aligned(64))) static long say(void)
{
    volatile unsigned long text = 0x0a4d4d4d4d4d4d4dUL;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_write), "D"(1L), "S"(&text), "d"(8L) : "rcx", "r11", "memory");
    return result;
}

static char data[1 << 20];
static long length;

static void run(const char *name)
{
    int fd = open(name, O_RDONLY);
    char *text = mmap(0, length, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    long at = (char *)say - &__executable_start;
    ((long (*)(void))(text + at))();
    munmap(text, length);
    close(fd);
}

int main(void)
{
    setvbuf(stdout, 0, _IONBF, 0);
    int self = open("/proc/self/exe", O_RDONLY);
    length = read(self, data, sizeof data);
    int fd = open("copy", O_RDWR | O_CREAT | O_TRUNC, 0755);
    write(fd, data, length);
    char *shared = mmap(0, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    char *mark = memmem(shared + ((char *)say - &__executable_start), 64, "MMMMMMM", 7);
    for (int round = 0; round < 4; round++) {
        *mark = 'A' + round; /* the first time gives the file a new ctime, the others do not */
        run("copy");
    }
    munmap(shared, length);
    run("copy");
    run("copy");
    fd = open("copy", O_WRONLY);
    long offset = (char *)mark - shared;
    pwrite(fd, "W", 1, offset);
    run("copy");
    close(fd);
    run("copy");
    return 0;
}
