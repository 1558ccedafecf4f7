/* Threads that read, map, cut off and rewrite the same files while others fork, spawn, exchange signals and stop: every
 * byte that arrives must be one that the file has had there.  Arguments: seconds, threads (test_file_threads.py).
 *
 * A word of a file is made of the file's number and its offset.  Files c* never change; m* are cut off and rewritten with
 * the same words, so that a word there may also be zero. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CONSTANT 40
#define MOVING 6
#define SIZE (1 << 20)
#define STEP (256 << 10)

static char *self;
static volatile int stop;
static int thread_count = 8, faults;
static pthread_t threads[64];
static pthread_barrier_t start;

static uint64_t word(int file, uint64_t offset)
{
    uint64_t x = (uint64_t)(file + 1) << 40 ^ offset;
    x *= 0x9e3779b97f4a7c15ULL;
    return (x ^ x >> 29) | 1;
}

static void fault(const char *what, int file, long a, long b)
{
    if (__sync_add_and_fetch(&faults, 1) <= 5)
        printf("%s: file %d, %ld, %ld (errno %d)\n", what, file, a, b, errno);
}

static void name(char *to, int file)
{
    sprintf(to, file < CONSTANT ? "c%d" : "m%d", file < CONSTANT ? file : file - CONSTANT);
}

static int open_file(int file, int flags)
{
    char path[16];
    name(path, file);
    int fd = open(path, flags | O_CLOEXEC, 0644);
    if (fd < 0)
        fault("open", file, flags, 0);
    return fd;
}

static void check(const char *what, int file, const void *data, long offset, long length)
{
    const uint64_t *words = data;
    for (long i = 0; i < length / 8; i++)
        if (words[i] != word(file, offset + i * 8) && (file < CONSTANT || words[i])) {
            fault(what, file, offset + i * 8, words[i]);
            return;
        }
}

static void fill(char *to, int file, long offset, long length)
{
    for (long i = 0; i < length; i += 8)
        *(uint64_t *)(to + i) = word(file, offset + i);
}

static void read_some(int file, char *buffer, unsigned *seed)
{
    int fd = open_file(file, O_RDONLY);
    for (int i = 0; i < 6 && fd >= 0; i++) {
        long length = (rand_r(seed) % 4 ? STEP : 4096 << rand_r(seed) % 6), at = (rand_r(seed) % SIZE) & ~4095L, got;
        memset(buffer, 0xee, length);
        int kind = rand_r(seed) % 3;
        if (kind == 0) {
            got = pread(fd, buffer, length, at);
        } else {
            struct iovec parts[] = {{buffer, length / 2}, {buffer + length / 2, length / 2}};
            lseek(fd, at, SEEK_SET);
            got = kind == 1 ? read(fd, buffer, length) : readv(fd, parts, 2);
            if (got >= 0 && lseek(fd, 0, SEEK_CUR) != at + got)
                fault("position", file, lseek(fd, 0, SEEK_CUR) - at, got);
        }
        long want = length < SIZE - at ? length : SIZE - at;
        if (got < 0 || got > want || (file < CONSTANT && got != want))
            fault("read", file, got, want);
        else
            check("bytes", file, buffer, at, got & ~7);
    }
    if (fd >= 0)
        close(fd);
}

static void map_some(int file, unsigned *seed)
{
    int fd = open_file(file, O_RDONLY);
    char *map[3];
    long at[3];
    for (int i = 0; i < 3; i++) {
        at[i] = (rand_r(seed) % (SIZE - 65536)) & ~4095L;
        map[i] = mmap(0, 65536, PROT_READ, MAP_PRIVATE, fd, at[i]);
        if (map[i] == MAP_FAILED)
            fault("mmap", file, at[i], 0);
    }
    close(fd);
    for (int i = 0; i < 3; i++)
        if (map[i] != MAP_FAILED) {
            check("mapped", file, map[i], at[i], 65536);
            munmap(map[i], 65536);
        }
}

static void move(int file, char *buffer, unsigned *seed)
{
    static pthread_mutex_t busy[MOVING];
    if (pthread_mutex_trylock(&busy[file - CONSTANT]))
        return;
    int fd = open_file(file, O_RDWR | (rand_r(seed) % 2 ? O_TRUNC : 0));
    if (fd >= 0) {
        if (rand_r(seed) % 2 && ftruncate(fd, rand_r(seed) % SIZE & ~4095L))
            fault("ftruncate", file, 0, 0);
        fill(buffer, file, 0, STEP);
        for (int i = rand_r(seed) % (SIZE / STEP); i >= 0; i--) {
            long at = i * (long)STEP;
            fill(buffer, file, at, STEP);
            if (pwrite(fd, buffer, STEP, at) != STEP)
                fault("pwrite", file, at, 0);
        }
        close(fd);
    }
    pthread_mutex_unlock(&busy[file - CONSTANT]);
}

static void read_in_child(char *buffer, unsigned *seed)
{
    pid_t pid = fork();
    if (!pid) {
        int before = faults;
        for (int i = 0; i < 4; i++)
            read_some(rand_r(seed) % CONSTANT, buffer, seed);
        map_some(rand_r(seed) % CONSTANT, seed);
        fflush(stdout);
        _exit(faults != before);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || status)
        fault("child", -1, pid, status);
}

static void read_in_program(unsigned *seed)
{
    char number[16], *argv[] = {self, "-", number, 0}, *none[] = {0};
    pid_t pid;
    int status;
    sprintf(number, "%d", rand_r(seed) % CONSTANT);
    if (posix_spawn(&pid, self, 0, 0, argv, none) || waitpid(pid, &status, 0) != pid || status)
        fault("program", -1, pid, status);
}

static void *work(void *arg)
{
    unsigned seed = (long)arg * 7919 + 1;
    char *buffer = malloc(STEP);
    pthread_barrier_wait(&start);
    while (!stop) {
        int what = rand_r(&seed) % 100;
        if (what < 50)
            read_some(rand_r(&seed) % CONSTANT, buffer, &seed);
        else if (what < 65)
            read_some(CONSTANT + rand_r(&seed) % MOVING, buffer, &seed);
        else if (what < 80)
            map_some(rand_r(&seed) % CONSTANT, &seed);
        else if (what < 92)
            move(CONSTANT + rand_r(&seed) % MOVING, buffer, &seed);
        else if (what < 97)
            pthread_kill(threads[rand_r(&seed) % thread_count], SIGUSR1);
        else if (what < 99)
            read_in_child(buffer, &seed);
        else
            read_in_program(&seed);
    }
    free(buffer);
    return 0;
}

static void *read_one(void *buffer)
{
    static unsigned seed = 5;
    read_some(rand_r(&seed) % CONSTANT, buffer, &seed);
    return 0;
}

static void *start_others(void *unused)
{
    pthread_t other;
    char *buffer = malloc(STEP);
    while (!stop) {
        pthread_create(&other, 0, read_one, buffer);
        pthread_join(other, 0);
    }
    free(buffer);
    return 0;
}

static void on_signal(int signo)
{
}

static void make(int file)
{
    char *all = malloc(SIZE);
    int fd = open_file(file, O_RDWR | O_CREAT);
    fill(all, file, 0, SIZE);
    if (lseek(fd, 0, SEEK_END) != SIZE && pwrite(fd, all, SIZE, 0) != SIZE)
        fault("make", file, 0, 0);
    close(fd);
    free(all);
}

int main(int argc, char **argv)
{
    setvbuf(stdout, 0, _IOLBF, 0);
    self = argv[0];
    if (argc > 2 && !strcmp(argv[1], "-")) {
        unsigned seed = 3;
        read_some(atoi(argv[2]), malloc(STEP), &seed);
        return faults != 0;
    }
    double seconds = argc > 1 ? atof(argv[1]) : 0.5;
    thread_count = argc > 2 ? atoi(argv[2]) : thread_count;
    for (int file = 0; file < CONSTANT + MOVING; file++)
        make(file);
    signal(SIGUSR1, on_signal);
    siginterrupt(SIGUSR1, 0);
    pthread_barrier_init(&start, 0, thread_count + 1);
    volatile int *over = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t us = getpid(), teaser = fork();
    if (!teaser) {
        while (!*over) {
            usleep(20000);
            if (kill(us, SIGSTOP))
                _exit(0);
            usleep(500);
            kill(us, SIGCONT);
        }
        _exit(0); /* of itself: killed before its SIGCONT it would leave us stopped */
    }
    pthread_t own;
    for (long i = 0; i < thread_count; i++)
        pthread_create(&threads[i], 0, work, (void *)i);
    pthread_barrier_wait(&start);
    pthread_create(&own, 0, start_others, 0);
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    do {
        usleep(10000);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - end.tv_sec + (now.tv_nsec - end.tv_nsec) / 1e9 < seconds);
    stop = 1;
    for (int i = 0; i < thread_count; i++)
        pthread_join(threads[i], 0);
    pthread_join(own, 0);
    *over = 1;
    waitpid(teaser, 0, 0);
    printf(faults ? "%d faults\n" : "every byte is right\n", faults);
    return faults != 0;
}
