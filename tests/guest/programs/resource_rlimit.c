/* getrlimit(2), setrlimit(2), prlimit(2): checks, inheritance, and RLIMIT_NOFILE in force. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define T(call) do { errno = 0; long r_ = (call); printf("%s = %ld %d\n", #call, r_, r_ < 0 ? errno : 0); } while (0)

int main(void) {
    struct rlimit limit, want = {20, 30};
    for (int i = 0; i < RLIM_NLIMITS; i++)
        if (getrlimit(i, &limit) != 0 || (limit.rlim_max != RLIM_INFINITY && limit.rlim_cur > limit.rlim_max)) printf("bad %d\n", i);
    T(getrlimit(16, &limit));
    T(setrlimit(16, &want));
    T(setrlimit(RLIMIT_NOFILE, &want));
    T(getrlimit(RLIMIT_NOFILE, &limit));
    printf("%lu %lu\n", limit.rlim_cur, limit.rlim_max);
    int last = -1, fd;
    while ((fd = dup(1)) >= 0) last = fd;
    printf("last %d errno %d\n", last, errno);
    T(dup2(1, 20));
    T(fcntl(1, F_DUPFD, 20));
    for (fd = 3; fd < 20; fd++) close(fd);
    setvbuf(stdout, NULL, _IONBF, 0);
    if (fork() == 0) {
        getrlimit(RLIMIT_NOFILE, &limit);
        printf("child %lu %lu\n", limit.rlim_cur, limit.rlim_max);
        _exit(0);
    }
    wait(NULL);
    struct rlimit twisted = {31, 30}, back;
    T(setrlimit(RLIMIT_NOFILE, &twisted));
    if (geteuid() == 0) setresuid(1000, 1000, 1000);
    want.rlim_max = 31;
    T(setrlimit(RLIMIT_NOFILE, &want));
    want.rlim_cur = 10, want.rlim_max = 10;
    T(prlimit(0, RLIMIT_NOFILE, &want, &back));
    printf("old %lu %lu\n", back.rlim_cur, back.rlim_max);
    T(prlimit(0x3fffff0, RLIMIT_NOFILE, NULL, &back));
    T(prlimit(getpid(), RLIMIT_NOFILE, NULL, &back));
    printf("now %lu %lu\n", back.rlim_cur, back.rlim_max);
    T(syscall(SYS_getrlimit, RLIMIT_NOFILE, (void *)8));
    T(syscall(SYS_setrlimit, RLIMIT_NOFILE, (void *)8));
    return 0;
}
