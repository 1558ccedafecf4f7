/* The main stack grows with RLIMIT_STACK: after a change in the same process, and for a program started without
   a limit, also where address space is limited. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void limit(int which, rlim_t soft) {
    struct rlimit old;
    getrlimit(which, &old);
    old.rlim_cur = soft;
    if (setrlimit(which, &old)) perror("setrlimit");
}

static int __attribute__((noinline)) touch(size_t size) {
    volatile char *room = __builtin_alloca(size);
    for (size_t i = size; i > 4096; i -= 4096) room[i - 1] = 1;
    return room[size - 1];
}

static int __attribute__((noinline)) read_far(size_t size) {
    char *room = __builtin_alloca(size);
    int fd = open("/dev/zero", O_RDONLY);
    memset(room + size - 100, 5, 100);
    long got = read(fd, room + 4096, 100);
    close(fd);
    return got == 100 ? room[size - 1] : 99;
}

static void report(const char *what, int pid) {
    int status;
    waitpid(pid, &status, 0);
    printf("%s: exit %d signal %d\n", what, WIFEXITED(status) ? WEXITSTATUS(status) : -1,
           WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    fflush(stdout);
}

static int again(const char *how) {
    int pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", "again", how, NULL);
        _exit(98);
    }
    return pid;
}

int main(int argc, char **argv) {
    if (argc > 1) {
        if (!strcmp(argv[1], "touch")) return touch(200 << 20);
        if (mmap(0, 64 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) return 97;
        return touch(20 << 20);
    }
    int pid = fork();
    if (pid == 0) _exit(touch(20 << 20));
    report("over 8 MiB", pid);
    limit(RLIMIT_STACK, 64 << 20);
    pid = fork();
    if (pid == 0) _exit(touch(40 << 20));
    report("raised, child", pid);
    pid = fork();
    if (pid == 0) _exit(read_far(30 << 20));
    report("raised, read", pid);
    printf("raised, same process: %d\n", touch(50 << 20));
    pid = fork();
    if (pid == 0) _exit(touch(80 << 20));
    report("over 64 MiB", pid);
    limit(RLIMIT_STACK, RLIM_INFINITY);
    report("unlimited", again("touch"));
    pid = fork();
    if (pid == 0) {
        limit(RLIMIT_AS, 256 << 20);
        execl("/proc/self/exe", "again", "both", NULL);
        _exit(98);
    }
    report("unlimited, little address space", pid);
    return 0;
}
