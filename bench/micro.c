/* The rows of the system call table: prints "name nanoseconds" per call, one line a row.
 * Usage: micro [row ...]; each row runs for about MICRO_MS milliseconds (default 60) after a short warm-up. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static int fd, pipe_fds[2], pair_fds[2], ping[2], pong[2];
static char buffer[65536];
static const char *self;

static long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void row_getppid(void) { syscall(SYS_getppid); }
static void row_stat(void) { struct stat st; stat("bench.d/file", &st); }
static void row_fstat(void) { struct stat st; fstat(fd, &st); }
static void row_open(void) { close(open("bench.d/file", O_RDONLY)); }
static void row_pread4k(void) { if (pread(fd, buffer, 4096, 0) != 4096) abort(); }
static void row_pread64k(void) { if (pread(fd, buffer, 65536, 0) != 65536) abort(); }
static void row_pwrite4k(void) { if (pwrite(fd, buffer, 4096, 0) != 4096) abort(); }
static void row_mmap(void)
{
    char *p = mmap(NULL, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 16; i++)
        p[i * 4096] = 1;
    munmap(p, 16 * 4096);
}
static void row_pipe(void)
{
    if (write(pipe_fds[1], buffer, 64) != 64 || read(pipe_fds[0], buffer, 64) != 64)
        abort();
}
static void row_socketpair(void)
{
    if (write(pair_fds[1], buffer, 64) != 64 || read(pair_fds[0], buffer, 64) != 64)
        abort();
}
static void *echo(void *arg)
{
    char byte;
    while (read(ping[0], &byte, 1) == 1 && byte != 'q')
        write(pong[1], &byte, 1);
    return NULL;
}
static void row_pingpong(void)
{
    char byte = 'x';
    write(ping[1], &byte, 1);
    if (read(pong[0], &byte, 1) != 1)
        abort();
}
static void row_create(void)
{
    close(open("bench.d/new", O_CREAT | O_WRONLY | O_EXCL, 0644));
    unlink("bench.d/new");
}
static void *nothing(void *arg) { return NULL; }
static void row_thread(void)
{
    pthread_t t;
    pthread_create(&t, NULL, nothing, NULL);
    pthread_join(t, NULL);
}
static void row_fork(void)
{
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
}
static void row_exec(void)
{
    pid_t child = fork();
    if (child == 0) {
        char *argv[] = {"true", NULL};
        execv("/bin/true", argv);
        _exit(1);
    }
    waitpid(child, NULL, 0);
}
static void row_spawn(void)
{
    pid_t child;
    char *argv[] = {"true", NULL};
    if (posix_spawn(&child, "/bin/true", NULL, NULL, argv, environ))
        abort();
    waitpid(child, NULL, 0);
}

struct row { const char *name; void (*call)(void); };
static const struct row rows[] = {
    {"getppid", row_getppid}, {"stat", row_stat}, {"fstat", row_fstat}, {"open+close", row_open},
    {"pread 4 KiB", row_pread4k}, {"pread 64 KiB", row_pread64k}, {"pwrite 4 KiB", row_pwrite4k},
    {"mmap+touch+munmap", row_mmap}, {"pipe write+read", row_pipe}, {"pipe ping-pong", row_pingpong},
    {"socketpair write+read", row_socketpair}, {"create+unlink", row_create}, {"pthread create+join", row_thread},
    {"fork+exit+wait", row_fork}, {"fork+exec+wait", row_exec}, {"posix_spawn+wait", row_spawn},
};

int main(int argc, char **argv)
{
    const char *ms = getenv("MICRO_MS");
    long budget_ns = (ms ? atol(ms) : 60) * 1000000L;
    pthread_t echoer;
    self = argv[0];
    mkdir("bench.d", 0755);
    fd = open("bench.d/file", O_RDWR | O_CREAT | O_TRUNC, 0644);
    for (int i = 0; i < 2; i++)
        write(fd, buffer, sizeof buffer);
    pipe(pipe_fds);
    int has_pair = socketpair(AF_UNIX, SOCK_STREAM, 0, pair_fds) == 0;
    pipe(ping);
    pipe(pong);
    pthread_create(&echoer, NULL, echo, NULL);
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int wanted = argc == 1;
        for (int a = 1; a < argc; a++)
            wanted |= !strcmp(argv[a], rows[i].name);
        if (!wanted || (rows[i].call == row_socketpair && !has_pair))
            continue;
        long start = now_ns(), count = 0, batch = 1, spent;
        for (int w = 0; w < 3; w++)
            rows[i].call();
        start = now_ns();
        do {
            for (long n = 0; n < batch; n++)
                rows[i].call();
            count += batch;
            spent = now_ns() - start;
            if (batch < 64 && spent < budget_ns / 10)
                batch *= 2;
        } while (spent < budget_ns);
        printf("%s\t%.1f\n", rows[i].name, (double)spent / count);
        fflush(stdout);
    }
    write(ping[1], "q", 1);
    pthread_join(echoer, NULL);
    return 0;
}
