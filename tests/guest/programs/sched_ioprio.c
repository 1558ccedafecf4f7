/* ioprio_set(2), ioprio_get(2). */
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PRIO(class, level) ((class) << 13 | (level))
#define SET(which, who, value) T(syscall(SYS_ioprio_set, which, who, value))
#define GET(which, who) T(syscall(SYS_ioprio_get, which, who))
#define T(call) do { errno = 0; long r_ = (call); printf("%s = %ld %d\n", #call, r_, r_ < 0 ? errno : 0); } while (0)

int main(void) {
    if (geteuid() == 0) setresuid(1000, 1000, 1000);
    SET(1, 0, PRIO(2, 3));
    GET(1, 0);
    SET(1, 0, PRIO(3, 0));
    GET(1, 0);
    SET(1, 0, PRIO(0, 0));
    SET(1, 0, PRIO(0, 1));
    SET(1, 0, PRIO(1, 0));
    SET(1, 0, PRIO(7, 0));
    SET(4, 0, PRIO(2, 0));
    SET(1, 0x3fffff0, PRIO(2, 0));
    GET(0, 0);
    GET(1, 0x3fffff0);
    return 0;
}
