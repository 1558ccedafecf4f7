/* Buffers whose end is not mapped: every kind of descriptor, every call, the hole after so many bytes. Prints the
 * bytes that were transferred, and the data that a second, whole transfer finds then. */
#include "file_common.h"
#include <pty.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#define PAGE 4096
static char *arena; /* four pages, then none */
static char whole[65536];

static char *before_hole(int bytes) { return arena + 4 * PAGE - bytes; }

static unsigned sum(const char *at, long size)
{
    unsigned h = 2166136261u;
    for (long i = 0; i < size; i++)
        h = (h ^ (unsigned char)at[i]) * 16777619u;
    return h;
}

static void pattern(char *at, int size, int salt)
{
    for (int i = 0; i < size; i++)
        at[i] = i * 7 + i / 251 + salt;
}

static void say(long result) { result < 0 ? printf(" %s", strerrorname_np(errno)) : printf(" %ld", result); }

/* -- what is read: each opens one with 6000 bytes or so in it, anew for every case */
static int other = -1;

static int regular(const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    pattern(whole, 10000, 1);
    write(fd, whole, 10000);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static int open_file(void) { return regular("file"); }
static int open_tmpfs(void) { return regular("/dev/shm/partial"); }
static int open_memfd(void)
{
    int fd = memfd_create("m", 0);
    pattern(whole, 10000, 2);
    write(fd, whole, 10000);
    lseek(fd, 0, SEEK_SET);
    return fd;
}
static int open_pipe(void)
{
    int two[2];
    pipe2(two, O_NONBLOCK);
    pattern(whole, 6000, 3);
    write(other = two[1], whole, 100);
    write(other, whole, 5900);
    return two[0];
}
static int open_stream(void)
{
    int two[2];
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, two);
    pattern(whole, 6000, 4);
    write(other = two[1], whole, 6000);
    return two[0];
}
static int open_datagram(void)
{
    int two[2];
    socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, two);
    pattern(whole, 6000, 5);
    write(other = two[1], whole, 6000);
    write(other, whole, 30);
    return two[0];
}
static int open_event(void) { return eventfd(5, EFD_NONBLOCK); }
static int open_timer(void)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec soon = {{0, 0}, {0, 1}};
    timerfd_settime(fd, 0, &soon, NULL);
    usleep(1000);
    return fd;
}
static int open_signal(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    raise(SIGUSR2);
    return signalfd(-1, &set, SFD_NONBLOCK);
}
static int open_inotify(void)
{
    int fd = inotify_init1(IN_NONBLOCK);
    close(open("watched", O_CREAT | O_RDWR, 0600));
    inotify_add_watch(fd, ".", IN_CREATE | IN_DELETE | IN_ATTRIB);
    chmod("watched", 0640);
    chmod("watched", 0600);
    unlink("watched");
    return fd;
}
static int open_proc(void) { return open("/proc/self/status", O_RDONLY); }
static int open_maps(void) { return open("/proc/self/maps", O_RDONLY); }
static int open_zero(void) { return open("/dev/zero", O_RDWR); }
static int open_random(void) { return open("/dev/urandom", O_RDWR); }
static int open_null(void) { return open("/dev/null", O_RDWR); }
static int open_memory(void)
{
    int fd = open("/proc/self/mem", O_RDWR);
    pattern(whole, 10000, 6);
    lseek(fd, (long)whole, SEEK_SET);
    return fd;
}
static int raw_terminal(int is_master)
{
    int master, slave;
    struct termios raw;
    openpty(&master, &slave, NULL, NULL, NULL);
    tcgetattr(slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
    fcntl(slave, F_SETFL, O_RDWR | O_NONBLOCK);
    pattern(whole, 500, 7);
    other = is_master ? slave : master;
    write(other, whole, 500);
    return is_master ? master : slave;
}
static int open_slave(void) { return raw_terminal(0); }
static int open_master(void) { return raw_terminal(1); }

static const struct kind { const char *name; int (*open)(void); int seeks, varies; } kinds[] = {
    {"file", open_file, 1}, {"tmpfs", open_tmpfs, 1}, {"memfd", open_memfd, 1}, {"pipe", open_pipe}, {"stream", open_stream}, {"datagram", open_datagram}, {"eventfd", open_event}, {"timerfd", open_timer},
    {"signalfd", open_signal, 0, 1}, {"inotify", open_inotify}, {"status", open_proc, 0, 1}, {"maps", open_maps, 0, 1}, {"zero", open_zero}, {"urandom", open_random, 0, 1}, {"null", open_null},
    {"memory", open_memory, 2}, {"slave", open_slave}, {"master", open_master},
};

enum { READ, READV, PREAD, PREADV2, WRITE, WRITEV, PWRITE, PWRITEV2, CALLS };
static const char *const calls[] = {"read", "readv", "pread", "preadv2", "write", "writev", "pwrite", "pwritev2"};

static long make(int call, int fd, char *at, int before)
{
    static const int length = 7000;
    /* The first segment is whole and not in the way of the hole; the second meets it. */
    struct iovec two[2] = {{whole + 40000, 24}, {at, length}};
    off_t from = 50;
    if (lseek(fd, 0, SEEK_CUR) > 1 << 20)
        from = (long)whole + 50;
    switch (call) {
    case READ: return read(fd, at, length);
    case READV: return readv(fd, two, 2);
    case PREAD: return pread(fd, at, length, from);
    case PREADV2: return preadv2(fd, two, 2, from, 0);
    case WRITE: return write(fd, at, length);
    case WRITEV: return writev(fd, two, 2);
    case PWRITE: return pwrite(fd, at, length, from);
    default: return pwritev2(fd, two, 2, from, 0);
    }
}

static void one(const struct kind *kind, int call, int before)
{
    memset(arena, 0, 4 * PAGE);
    memset(whole + 40000, 0, 24);
    int fd = kind->open();
    char *at = before_hole(before);
    if (call >= WRITE)
        pattern(at, before, 9);
    long result = make(call, fd, at, before);
    printf("%s %s %d:", kind->name, calls[call], before);
    if (kind->varies && call < WRITE && result > 0)
        result = result >= before ? before : 1; /* as many bytes as fit, or fewer */
    say(result);
    if (call < WRITE && !kind->varies && result > 0) {
        int second = call & 1;
        long first = second ? result < 24 ? result : 24 : 0;
        printf(" %x", sum(whole + 40000, first) ^ sum(at, result - first));
    }
    if (kind->seeks == 1) {
        printf(" at %ld", (long)lseek(fd, 0, SEEK_CUR));
        printf(" of %ld", (long)lseek(fd, 0, SEEK_END));
    }
    else if (kind->seeks)
        ; /* mem_rw moves on even when it fails */
    /* What is left. */
    static char rest[65536];
    long left = kind->seeks == 2 ? 0 : kind->seeks ? pread(fd, rest, sizeof rest, 0) : kind->varies || kind->open == open_zero ? 0 : read(call < WRITE ? fd : other, rest, sizeof rest);
    printf(", then");
    say(left);
    if (left > 0)
        printf(" %x", sum(rest, left));
    printf("\n");
    close(fd);
    close(other);
    other = -1;
}

int main(void)
{
    static const int holes[] = {0, 1, 30, 256, PAGE, 6999};
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
arena = mmap(NULL, 20 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); /* so that no other mapping is placed
                                                                                     there */
    mprotect(arena, 4 * PAGE, PROT_READ | PROT_WRITE);
    signal(SIGPIPE, SIG_IGN);
    for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (int call = 0; call < CALLS; call++)
            for (unsigned h = 0; h < sizeof holes / sizeof *holes; h++) {
                int is_odd = kinds[k].open == open_signal || kinds[k].open == open_proc || kinds[k].open == open_maps;
                int is_terminal = kinds[k].open == open_slave || kinds[k].open == open_master;
                if ((is_odd && call >= WRITE) || (is_terminal && call >= WRITE && holes[h] > 2000)) /* a terminal passes on when it likes */
                    continue;
                one(&kinds[k], call, holes[h]);
            }
    /* Calls without a descriptor, and directories. */
    for (unsigned h = 0; h < sizeof holes / sizeof *holes; h++) {
        char *at = before_hole(holes[h]);
        printf("without %d:", holes[h]);
        say(syscall(SYS_getrandom, at, 7000, 0)); /* not by the vDSO */
        say(readlink("/proc/self/exe", at, 7000) < 0 ? -1 : 0);
        say(syscall(SYS_getcwd, at, 7000) < 0 ? -1 : 0);
        int d = open("/proc/self/task/self/..", O_RDONLY | O_DIRECTORY);
        if (d < 0)
            d = open("/proc/self", O_RDONLY | O_DIRECTORY);
        say(syscall(SYS_getdents64, d, at, 7000) < 0 ? -1 : 0);
        close(d);
        mkdir("directory", 0700);
        for (int i = 0; i < 40; i++) {
            char name[40];
            sprintf(name, "directory/file-%02d", i);
            close(open(name, O_CREAT | O_WRONLY, 0600));
        }
        /* Entries of 32 bytes (two shorter): how many come before the hole, and that none is lost. */
        d = open("directory", O_RDONLY | O_DIRECTORY);
        long got = syscall(SYS_getdents64, d, at, 7000);
        say(got < 0 ? -1 : 0);
        int count = 0;
        for (long part = got; part > 0; part = syscall(SYS_getdents64, d, at = whole, sizeof whole))
            for (long i = 0; i < part; i += ((struct dirent64 *)(at + i))->d_reclen)
                count++;
        printf(" %d\n", count);
        close(d);
    }
    fflush(stdout);
    unlink("/dev/shm/partial");
    return 0;
}
