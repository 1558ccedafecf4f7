/* Errors of calls on descriptors, by kind of descriptor and by argument: lseek, truncation, fallocate, RWF_*, fcntl, pipe2,
   open and openat2. */
#include "file_common.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static void say(long result) { result < 0 ? printf(" %s", strerrorname_np(errno)) : result < 100000 ? printf(" %ld", result) : printf(" large"); }
#define COUNT(a) (sizeof(a) / sizeof *(a))
static const char *const names[] = {"file", "reader", "writer", "append", "path", "directory", "pipe", "pipe end", "stream", "event", "epoll", "null", "memfd", "status", "bad", "tmpfile"};
static int fds[16];

static void arrange(void)
{
    static int is_open;
    for (int i = 0; is_open && i < 16; i++)
        close(fds[i]);
    is_open = 1;
    put_file("/dev/shm/errors", "abcdefghijklmnop");
    int two[2], pair[2];
    pipe(two);
    write(two[1], "pipe", 4);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    close(pair[1]);
    int made[] = {open("/dev/shm/errors", O_RDWR), open("/dev/shm/errors", O_RDONLY), open("/dev/shm/errors", O_WRONLY), open("/dev/shm/errors", O_RDWR | O_APPEND), open("/dev/shm/errors", O_PATH),
                  open("/dev/shm", O_RDONLY | O_DIRECTORY), two[0], two[1], pair[0], eventfd(3, 0), epoll_create1(0), open("/dev/null", O_RDWR), memfd_create("m", 0), open("/proc/self/status", O_RDONLY), -1,
                  open("/dev/shm", O_TMPFILE | O_RDWR, 0600)};
    memcpy(fds, made, sizeof fds);
    pwrite(fds[12], "abcdefghijklmnop", 16, 0);
}

int main(void)
{
    static const long offsets[] = {0, 1, -1, 16, 17, 1L << 40, LONG_MAX, LONG_MIN};
    static const int whences[] = {SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE, 5, -1};
    char b[64] = "0123456789";
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    signal(SIGIO, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    for (int k = 0; k < 16; k++) {
        arrange();
        int fd = fds[k];
        for (unsigned w = 0; w < COUNT(whences); w++) {
            printf("%s lseek %d:", names[k], whences[w]);
            for (unsigned o = 0; o < COUNT(offsets); o++) {
                lseek(fd, 2, SEEK_SET);
                say(lseek(fd, offsets[o], whences[w]));
            }
            printf("\n");
        }
        printf("%s ftruncate:", names[k]);
        for (unsigned o = 0; o < COUNT(offsets); o++)
            if (offsets[o] != 1L << 40)
                say(ftruncate(fd, offsets[o]));
        printf("\n");
        arrange();
        fd = fds[k];
        for (int mode = 0; mode < 0x100; mode = mode ? mode * 2 + (mode & 1) : 1) {
            printf("%s fallocate %x:", names[k], mode);
            long sizes[] = {0, 1, -1, 5000, LONG_MAX};
            for (unsigned o = 0; o < 4; o++)
                for (unsigned l = 0; l < 5; l++)
                    if (l != 4 || o) /* all of memory */
                        say(fallocate(fd, mode, offsets[o], sizes[l]));
            printf("\n");
        }
        for (int flag = 0; flag < 0x40 || flag == 0x1000; flag = flag ? flag * 2 : 1) { /* RWF_ATOMIC and later ones depend on the version */
            arrange();
            fd = fds[k];
            struct iovec v = {b, 4};
            printf("%s rwf %x:", names[k], flag);
            if (k != 9 && k != 7 && k != 8) /* these would wait */
                say(preadv2(fd, &v, 1, -1, flag));
            say(preadv2(fd, &v, 1, 3, flag));
            say(preadv2(fd, &v, 1, -2, flag));
            say(preadv2(fd, &v, 0, 3, flag));
            if (k != 9)
                say(pwritev2(fd, &v, 1, -1, flag));
            say(pwritev2(fd, &v, 1, 3, flag));
            say(pwritev2(fd, &v, 1, 3, flag | RWF_APPEND));
            say(pwritev2(fd, &v, 1, 3, flag | RWF_APPEND | 0x20));
            say(lseek(fd, 0, SEEK_CUR));
            printf("\n");
        }
        arrange();
        fd = fds[k];
        for (int command = 0; command < 1040; command = command == 41 ? 1026 : command + 1) {
            if (command == 17 || command == 1027) /* as the kernel was built; and what other descriptors there are */
                continue;
            long args[] = {0, 1, -1, (long)b};
            printf("%s fcntl %d:", names[k], command);
            for (unsigned a = 0; a < COUNT(args); a++) {
                struct flock lock = {F_RDLCK, SEEK_SET, 0, 1};
                memcpy(b, &lock, sizeof lock);
                if ((command == F_DUPFD || command == F_DUPFD_CLOEXEC) && a < 2) {
                    int copy = fcntl(fd, command, args[a]);
                    say(copy < 0 ? -1 : 0);
                    close(copy);
                    continue;
                }
                if ((command == F_SETOWN && a > 1) || (command == F_SETFL && a > 2) || (command == F_SETPIPE_SZ && a > 2)) /* no pid; an address */
                    continue;
                if ((command == F_GETFL || command == F_GETOWN) && a)
                    continue;
                say(fcntl(fd, command, args[a]));
            }
            printf("\n");
        }
    }
    /* The limit of lseek, the result of a positioned write, and the flags, which depend on Linux's implementation of
     * the file. */
    static const char *const made[] = {"/proc/self/maps", "/proc/self/auxv", "/proc/self/cmdline", "/proc/self/coredump_filter", "/proc/self/oom_score_adj", "/proc/self/mountinfo", "/proc/self/comm", "/proc/self/mem", "/proc/self/fdinfo/0",
                                       "/proc/self/net/unix", "/proc/self/ns/mnt", "/proc/meminfo", "/proc/sysvipc/shm", "/proc/sys/kernel/osrelease", "/proc/sys/kernel/hostname", "/sys/devices/system/cpu/online", "/dev/full", "/dev/zero"};
    for (unsigned i = 0; i < COUNT(made); i++) {
        int fd = open(made[i], O_RDONLY);
        struct iovec v = {b, 1};
        printf("%s:", made[i]);
        for (int flag = 1; flag < 0x100 && i != 10; flag *= 2) /* a namespace is not read at all */
            say(preadv2(fd, &v, 1, 0, flag) < 0 ? -1 : 0);
        say(pwrite(fd, b, 1, 0));
        say(pwritev2(fd, &v, 1, 0, 0));
        say(pwritev2(fd, &v, 1, -1, 0));
        say(fcntl(fd, F_SETFL, O_DIRECT));
        long places[] = {INT_MAX, INT_MAX + 1L, LONG_MAX};
        for (unsigned p = 0; p < COUNT(places); p++)
            say(lseek(fd, 1, SEEK_SET)), say(lseek(fd, places[p], SEEK_SET)), say(lseek(fd, 1, SEEK_SET)), say(lseek(fd, places[p], SEEK_CUR));
        say(lseek(fd, 0, SEEK_END) < 0 ? -1 : 0);
        printf("\n");
        close(fd);
    }
    static const int bits[] = {0, O_CLOEXEC, O_NONBLOCK, O_DIRECT, O_EXCL, O_APPEND, 1, 1 << 30};
    for (unsigned i = 0; i < 7; i++) {
        int two[2];
        printf("pipe2 %x:", bits[i]);
        if (bits[i] != O_EXCL) /* O_NOTIFICATION_PIPE: as the kernel was built */
            say(pipe2(two, bits[i]) < 0 ? -1 : 0);
        say(pipe2((int *)8, bits[i] & ~O_EXCL));
        say(pipe2(two, bits[i] | 1 << 30));
        printf("\n");
    }
    mkdir("d", 0700);
    symlink("d", "link");
    symlink("/", "root");
    symlink("nothing", "dangling");
    put_file("f", "text");
    static const char *const paths[] = {"f", "d", "link", "dangling", "d/", "f/", "nothing", "nothing/", ".", "root/dev/null", "../..", "/dev/null", "", "d/new", "link/x"};
    static const int flags[] = {0, O_CREAT, O_CREAT | O_EXCL, O_DIRECTORY, O_CREAT | O_DIRECTORY, O_NOFOLLOW, O_PATH, O_PATH | O_NOFOLLOW, O_PATH | O_CREAT, O_PATH | O_DIRECTORY, O_TMPFILE, O_TMPFILE | O_WRONLY, O_TMPFILE | O_RDWR | O_CREAT,
                                O_TMPFILE | O_RDWR | O_EXCL, O_TRUNC, O_RDWR, O_WRONLY, 3, O_CREAT | O_NOFOLLOW, O_APPEND | O_TRUNC | O_WRONLY, 1 << 30, 020000000 & ~O_DIRECTORY};
    static const unsigned long resolves[] = {0, 1, 2, 4, 8, 16, 32, 0x1c, 64, 24, 1UL << 40};
    for (unsigned p = 0; p < COUNT(paths); p++)
        for (unsigned f = 0; f < COUNT(flags); f++) {
            printf("open %s %x:", paths[p], flags[f]);
            int fd = open(paths[p], flags[f], 0600);
            say(fd < 0 ? -1 : 0);
            close(fd);
            unlink("nothing"), unlink("d/new"), unlink("d/x");
            for (unsigned r = 0; r < COUNT(resolves); r++) {
                struct open_how how = {flags[f], flags[f] & O_CREAT || (flags[f] & O_TMPFILE) == O_TMPFILE ? 0600 : 0, resolves[r]};
                if (p == 10 && r) /* the higher bits differ */
                    continue;
                for (int tries = 0; tries < 60; tries++) { /* RESOLVE_CACHED: a rename or mount anywhere makes it EAGAIN */
                    if (tries > 40) /* who does that may do it much */
                        usleep(100);
                    fd = syscall(SYS_openat2, AT_FDCWD, paths[p], &how, sizeof how);
                    if (fd >= 0 || errno != EAGAIN || resolves[r] != 32)
                        break;
                }
                say(fd < 0 ? -1 : 0);
                close(fd);
                unlink("nothing"), unlink("d/new"), unlink("d/x");
            }
            printf("\n");
        }
    unlink("/dev/shm/errors");
    return 0;
}
