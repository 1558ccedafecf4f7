/* Executables that are not: loops of #!, garbage, and mutated ELF files.  fuzz N SEED FILE: N mutations of FILE. */
#include "hostile.h"
#include <elf.h>
#include <sys/stat.h>

static int failures;

static void put(const char *path, const void *data, size_t length)
{
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0755);
    if (write(fd, data, length) != (ssize_t)length)
        perror("write");
    close(fd);
}

static void exec_fails(const char *what, const char *path, int wanted)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        char *argv[] = {(char *)path, NULL};
        execve(path, argv, argv + 1);
        _exit(errno);
    }
    int status = await(pid, 3000);
    int got = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (got != wanted) {
        printf("%s: %d (%x) instead of %d\n", what, got, status, wanted);
        failures++;
    }
}

int main(int argc, char **argv)
{
    char text[8192], path[64], next[64];
    static unsigned char original[1 << 20], copy[1 << 20];
    int fd = open(argv[3], O_RDONLY);
    ssize_t size = read(fd, original, sizeof original);
    close(fd);
    if (size < (ssize_t)sizeof(Elf64_Ehdr))
        return 2;
    hold_sigchld();
    mkdir("/tmp/scripts", 0777);
    chdir("/tmp/scripts");
    put("self", "#!/tmp/scripts/self\n", 20);
    exec_fails("#! of itself", "/tmp/scripts/self", ELOOP);
    put("ping", "#!/tmp/scripts/pong\n", 20);
    put("pong", "#!/tmp/scripts/ping\n", 20);
    exec_fails("two of them", "/tmp/scripts/ping", ELOOP);
    for (int i = 0; i < 8; i++) {
        sprintf(path, "chain%d", i);
        sprintf(next, i ? "#!/tmp/scripts/chain%d\n" : "#!/bin/true\n", i - 1);
        put(path, next, strlen(next));
    }
    exec_fails("a chain of four", "/tmp/scripts/chain3", 0);
    exec_fails("a chain of eight", "/tmp/scripts/chain7", ELOOP);
    put("absent", "#!/nothing/here\n", 16);
    exec_fails("no interpreter", "/tmp/scripts/absent", ENOENT);
    put("empty", "", 0);
    exec_fails("an empty file", "/tmp/scripts/empty", ENOEXEC);
    put("blank", "#!\n", 3);
    exec_fails("no name", "/tmp/scripts/blank", ENOEXEC);
    put("spaces", "#!      \n", 9);
    exec_fails("only spaces", "/tmp/scripts/spaces", ENOEXEC);
    memset(text, 'x', sizeof text);
    memcpy(text, "#!/", 3);
    put("long", text, sizeof text);
    exec_fails("no end of line", "/tmp/scripts/long", ENOEXEC);
    put("dir", "#!/tmp/scripts\n", 15);
    exec_fails("a directory", "/tmp/scripts/dir", EACCES);
    put("magic", "\177ELF", 4);
    exec_fails("only the magic", "/tmp/scripts/magic", ENOEXEC);

    int rounds = atoi(argv[1]), ran = 0, refused = 0, died = 0;
    Elf64_Ehdr *header = (void *)copy;
    seed += atol(argv[2]) * 977;
    for (int i = 0; i < rounds; i++) {
        memcpy(copy, original, size);
        Elf64_Phdr *program = (void *)(copy + ((Elf64_Ehdr *)original)->e_phoff);
        int count = ((Elf64_Ehdr *)original)->e_phnum;
        static const uint64_t odd[] = {0, 1, -1UL, 1UL << 63, 0x7fffffffffffffffUL, 0x1000, 0xfff, 1UL << 47, STUB_BASE, REGION_BASE, MAX_ADDRESS, MAX_ADDRESS - 4096, 0x10000, 0xffffffff, 1UL << 40, 65535};
        for (int n = rnd() % 4; n >= 0; n--) {
            uint64_t value = rnd() % 3 ? odd[rnd() % 16] : rnd();
            switch (rnd() % 5) {
            case 0: copy[rnd() % 64] = value; break;
            case 1: ((uint64_t *)&header->e_entry)[rnd() % 3] = value; break;
            case 2: ((uint16_t *)&header->e_ehsize)[rnd() % 6] = value; break;
            case 3: ((uint64_t *)&program[rnd() % count])[1 + rnd() % 6] = value; break;
            case 4: ((uint32_t *)&program[rnd() % count])[rnd() % 2] = rnd() % 2 ? rnd() % 8 : value; break;
            }
        }
        ssize_t length = rnd() % 8 ? size : (ssize_t)(rnd() % size);
        put("fuzz", copy, length);
        pid_t pid = fork();
        if (pid == 0) {
            struct itimerval soon = {{0, 0}, {0, 100000}};
            struct rlimit limit = {256 << 20, 256 << 20};
            char *args[] = {"fuzz", NULL};
            int null = open("/dev/null", O_RDWR);
            for (int k = 0; k < 3; k++)
                dup2(null, k);
            setrlimit(RLIMIT_AS, &limit);
            setitimer(ITIMER_REAL, &soon, NULL);
            execv("./fuzz", args);
            _exit(99);
        }
        int status = await(pid, 500);
        if (WIFSIGNALED(status))
            died++;
        else if (WEXITSTATUS(status) == 99)
            refused++;
        else
            ran++;
    }
    printf("mutations %d, some refused %d\n", ran + refused + died, refused > 0);
    printf("failures %d\n", failures);
    return failures != 0;
}
