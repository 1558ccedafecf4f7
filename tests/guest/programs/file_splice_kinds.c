/* splice, tee and vmsplice between every two kinds of file: errors and their order, the bytes that move, the rest. */
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "file_common.h"
#include <pty.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static void say(long result) { result < 0 ? printf(" %s", strerrorname_np(errno)) : printf(" %ld", result); }
static const char *const names[] = {"pipe", "empty pipe", "closed pipe", "file", "append", "directory", "event", "epoll", "timer", "inotify", "signal", "null", "zero", "full", "random", "status", "stream", "datagram", "path",
                                    "memfd", "bad", "other end", "full pipe"};
enum { KINDS = sizeof names / sizeof *names };
static int extra;

static int open_kind(int kind)
{
    int two[2];
    sigset_t none = {};
    extra = -1;
    switch (kind) {
    case 0: pipe(two); write(two[1], "0123456789", 10); extra = two[1]; return two[0];
    case 1: pipe(two); extra = two[1]; return two[0];
    case 2: pipe(two); close(two[1]); return two[0];
    case 3: put_file("file", "abcdefghijklmnop"); return open("file", O_RDWR);
    case 4: put_file("append", "abcdefghijklmnop"); return open("append", O_RDWR | O_APPEND);
    case 5: return open(".", O_RDONLY);
    case 6: return eventfd(1, 0);
    case 7: return epoll_create1(0);
    case 8: return timerfd_create(CLOCK_MONOTONIC, 0);
    case 9: return inotify_init();
    case 10: return signalfd(-1, &none, 0);
    case 11: return open("/dev/null", O_RDWR);
    case 12: return open("/dev/zero", O_RDWR);
    case 13: return open("/dev/full", O_RDWR);
    case 14: return open("/dev/urandom", O_RDWR);
    case 15: return open("/proc/self/status", O_RDONLY);
    case 16: socketpair(AF_UNIX, SOCK_STREAM, 0, two); write(two[1], "0123456789", 10); extra = two[1]; return two[0];
    case 17: socketpair(AF_UNIX, SOCK_DGRAM, 0, two); write(two[1], "0123456789", 10); extra = two[1]; return two[0];
    case 18: return open("file", O_PATH);
    case 19: { int fd = memfd_create("m", 0); pwrite(fd, "abcdefghijklmnop", 16, 0); return fd; }
    case 20: return -1;
    case 21: pipe(two); extra = two[0]; return two[1]; /* for writing */
    default: pipe2(two, 0); fcntl(two[1], F_SETPIPE_SZ, 4096); write(two[1], (char[4096]){}, 4096); extra = two[0]; return two[1];
    }
}

int main(void)
{
    static char bytes[1 << 20] __attribute__((aligned(4096)));
    off_t zero, minus = -1;
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    signal(SIGPIPE, SIG_IGN);
    put_file("file", "x");
    for (int in = 0; in < KINDS; in++)
        for (int out = 0; out < KINDS; out++) {
            int has_pipe = in < 3 || in > 20 || out > 20;
            int from = open_kind(in), from_extra = extra, to = open_kind(out), to_extra = extra;
            printf("%s to %s:", names[in], names[out]);
            for (int how = 0; how < (has_pipe ? 8 : 1); how++) {
                int flags = how == 6 ? 0x10 : 2;
                zero = 0;
                errno = 0;
                long done = how == 7 ? tee(from, to, 5, 2) : splice(from, how == 1 ? &zero : how == 3 ? &minus : how == 4 ? (void *)8 : NULL, to, how == 2 ? &zero : how == 5 ? (void *)8 : NULL, how == 6 ? 0 : 5, flags);
                say(done);
                if (done > 0) { /* anew */
                    close(from), close(from_extra), close(to), close(to_extra);
                    from = open_kind(in), from_extra = extra, to = open_kind(out), to_extra = extra;
                }
            }
            close(from), close(from_extra), close(to), close(to_extra);
            printf("\n");
        }
    /* Calls that must not wait although no flag says so. */
    for (int out = 4; out < 11; out++) {
        int from = open_kind(1), from_extra = extra, to = open_kind(out);
        printf("waiting, empty pipe to %s:", names[out]);
        say(splice(from, NULL, to, NULL, 5, 0));
        printf("\n");
        close(from), close(from_extra), close(to);
    }
    /* vmsplice takes as much as there is room for. */
    int two[2];
    pipe(two);
    struct iovec all[3] = {{bytes, 8192}, {bytes, sizeof bytes}, {bytes, 9}}, small = {bytes, 10000}, none = {(void *)8, 100}, half[2] = {{bytes, 100}, {(void *)8, 100}};
    T(vmsplice(two[1], all, 3, 0));
    T(vmsplice(two[1], all, 3, SPLICE_F_NONBLOCK));
    T(read(two[0], bytes, 8192));
    T(vmsplice(two[1], all, 1, SPLICE_F_NONBLOCK));
    T(read(two[0], bytes, sizeof bytes));
    T(vmsplice(two[1], &small, 1, 0));
    T(vmsplice(two[1], &none, 1, 0));
    /* A page of a pipe for each page that a segment touches, and what follows begins a new one. */
    char *pages = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int shift = 0; shift < 300; shift += 100) {
        int fresh[2], left;
        pipe2(fresh, O_NONBLOCK);
        struct iovec odd = {pages + shift, 200000}, across[40];
        T(vmsplice(fresh[1], &odd, 1, SPLICE_F_NONBLOCK));
        T(vmsplice(fresh[1], &odd, 1, SPLICE_F_NONBLOCK));
        close(fresh[0]), close(fresh[1]);
        pipe2(fresh, O_NONBLOCK);
        for (int i = 0; i < 40; i++)
            across[i] = (struct iovec){pages + 4000 + 8192 * i - shift, shift ? 90 : 200};
        write(fresh[1], "before", 6);
        T(vmsplice(fresh[1], across, 40, SPLICE_F_NONBLOCK));
        T(read(fresh[0], pages, 100));
        T(write(fresh[1], pages, 10));
        ioctl(fresh[0], FIONREAD, &left);
        printf("left %d\n", left);
        close(fresh[0]), close(fresh[1]);
    }
    munmap(pages, 1 << 20);
    T(vmsplice(two[1], half, 2, 0));
    T(vmsplice(two[0], &small, 1, 0));
    T(vmsplice(two[0], &small, 1, SPLICE_F_NONBLOCK));
    T(vmsplice(two[0], &small, 1, SPLICE_F_NONBLOCK));
    T(vmsplice(two[0], &small, 0, 0));
    T(vmsplice(two[0], &small, 1025, 0));
    T(vmsplice(two[0], &small, 1, 0x10));
    T(vmsplice(-1, &small, 1, 0));
    close(two[0]);
    T(vmsplice(two[1], &small, 1, 0));
    return 0;
}
