/*
 * The anchor: the process that stands for a container, or for a command in one, towards engines.
 *
 * It is in the container's control groups and namespaces and only passes on: a signal that it gets goes as one byte
 * to the monitor (descriptor 3, a SOCK_SEQPACKET socket), and it ends with the wait status that the monitor sends. If
 * the monitor is gone it ends as if killed. It runs as pid 1 of a pid namespace, so it reaps orphans, and has to exit
 * with 128 + signal where the kernel ignores the signal that it sends itself.
 *
 * Freestanding: no C library, no heap, a few pages of memory.
 */
#include <stdint.h>

#define SOCKET 3
#define SYS_poll 7
#define SYS_rt_sigprocmask 14
#define SYS_read 0
#define SYS_sendto 44
#define SYS_recvfrom 45
#define SYS_getpid 39
#define SYS_wait4 61
#define SYS_kill 62
#define SYS_exit_group 231
#define SYS_signalfd4 289

#define SIGCHLD 17
#define SIGKILL 9
#define POLLIN 1
#define MSG_DONTWAIT 0x40
#define MSG_NOSIGNAL 0x4000
#define WNOHANG 1
#define EINTR 4
#define CLOEXEC_NONBLOCK 02004000

static long call(long nr, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static _Noreturn void end(int status)
{
    int signo = status & 0x7f;

    if (signo) {
        uint64_t none = 0;

        call(SYS_rt_sigprocmask, 2, (long)&none, 0, 8, 0, 0);
        call(SYS_kill, call(SYS_getpid, 0, 0, 0, 0, 0, 0), signo, 0, 0, 0, 0);
        for (;;)
            call(SYS_exit_group, 128 + signo, 0, 0, 0, 0, 0);
    }
    for (;;)
        call(SYS_exit_group, status >> 8 & 0xff, 0, 0, 0, 0, 0);
}

struct pollfd {
    int fd;
    short events, revents;
};

static void take_signals(int fd)
{
    unsigned char info[128];

    while (call(SYS_read, fd, (long)info, sizeof info, 0, 0, 0) == sizeof info) {
        unsigned char signo = info[0]; /* ssi_signo, little-endian */

        if (signo == SIGCHLD) {
            while (call(SYS_wait4, -1, 0, WNOHANG, 0, 0, 0) > 0)
                ;
            continue;
        }
        call(SYS_sendto, SOCKET, (long)&signo, 1, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
    }
}

static _Noreturn void run(void)
{
    uint64_t all = ~0ull;
    struct pollfd polled[2];
    int signals;

    call(SYS_rt_sigprocmask, 2, (long)&all, 0, 8, 0, 0);
    signals = (int)call(SYS_signalfd4, -1, (long)&all, 8, CLOEXEC_NONBLOCK, 0, 0);
    polled[0].fd = SOCKET;
    polled[1].fd = signals;
    polled[0].events = polled[1].events = POLLIN;
    for (;;) {
        polled[0].revents = polled[1].revents = 0;
        call(SYS_poll, (long)polled, 2, -1, 0, 0, 0);
        if (polled[0].revents) {
            int32_t status;
            long count = call(SYS_recvfrom, SOCKET, (long)&status, sizeof status, MSG_DONTWAIT, 0, 0);

            if (count == sizeof status)
                end(status);
            if (count >= 0 || (count != -11 && count != -EINTR))
                end(SIGKILL);
        }
        if (polled[1].revents)
            take_signals(signals);
    }
}

__attribute__((naked, used)) void _start(void)
{
    __asm__("xor %ebp, %ebp\n\tand $-16, %rsp\n\tcall anchor_main\n\thlt");
}

__attribute__((used)) _Noreturn void anchor_main(void)
{
    run();
}
