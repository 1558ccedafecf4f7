/* getpriority(2), setpriority(2), nice(2). */
#include <errno.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define T(call) do { errno = 0; long r_ = (call); printf("%s = %ld %d\n", #call, r_, r_ < 0 ? errno : 0); } while (0)

int main(void) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_NICE, &none);
    setpgid(0, 0);
    setpriority(PRIO_PROCESS, 0, 0); /* whoever runs the tests may be nice */
    T(syscall(SYS_getpriority, PRIO_PROCESS, 0));
    T(setpriority(PRIO_PROCESS, 0, 5));
    T(syscall(SYS_getpriority, PRIO_PROCESS, 0));
    T(setpriority(PRIO_PGRP, 0, 6));
    T(syscall(SYS_getpriority, PRIO_PGRP, 0));
    T(nice(2));
    setvbuf(stdout, NULL, _IONBF, 0);
    if (fork() == 0) {
        T(syscall(SYS_getpriority, PRIO_PROCESS, 0));
        _exit(0);
    }
    wait(NULL);
    if (geteuid() == 0) setresuid(1000, 1000, 1000);
    T(setpriority(PRIO_PROCESS, 0, 0));
    T(setpriority(PRIO_PROCESS, 0, 100));
    T(syscall(SYS_getpriority, PRIO_PROCESS, 0));
    T(nice(-1));
    T(syscall(SYS_getpriority, 3, 0));
    T(setpriority(-1, 0, 0));
    T(syscall(SYS_getpriority, PRIO_PROCESS, 0x3fffff0));
    T(setpriority(PRIO_PGRP, 0x3fffff0, 0));
    T(syscall(SYS_getpriority, PRIO_USER, 0x7ffffff0));
    return 0;
}
