/* sched_setscheduler(2), sched_setparam(2) without privileges, and the bounds of priorities. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define T(call) do { errno = 0; int r_ = (call); printf("%s = %d %d\n", #call, r_, r_ < 0 ? errno : 0); } while (0)

int main(void) {
    struct sched_param zero = {0}, five = {5}, got = {9};
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_RTPRIO, &none);
    setrlimit(RLIMIT_NICE, &none);
    if (geteuid() == 0) setresuid(1000, 1000, 1000);
    T(sched_getscheduler(0));
    T(sched_getparam(0, &got));
    printf("%d\n", got.sched_priority);
    T(sched_setscheduler(0, SCHED_FIFO, &five));
    T(sched_setscheduler(0, SCHED_RR, &zero));
    T(sched_setscheduler(0, SCHED_OTHER, &five));
    T(sched_setscheduler(0, 4, &zero));
    T(sched_setscheduler(0, -1, &zero));
    T(sched_setscheduler(0, SCHED_OTHER, NULL));
    T(sched_setscheduler(-5, SCHED_OTHER, &zero));
    T(sched_setscheduler(0x3fffff0, SCHED_OTHER, &zero));
    T(sched_setparam(0, &zero));
    T(sched_setparam(0, &five));
    T(sched_setscheduler(0, SCHED_BATCH, &zero));
    T(sched_getscheduler(0));
    T(sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &zero));
    T(sched_getscheduler(0));
    T(sched_setscheduler(0, SCHED_BATCH, &zero));
    setvbuf(stdout, NULL, _IONBF, 0);
    if (fork() == 0) {
        T(sched_getscheduler(0));
        _exit(0);
    }
    wait(NULL);
    T(sched_setscheduler(0, SCHED_IDLE | SCHED_RESET_ON_FORK, &zero));
    T(sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &zero));
    for (int policy = -1; policy < 8; policy++)
        if (policy != 7) printf("%d: %d %d\n", policy, sched_get_priority_min(policy), sched_get_priority_max(policy));
    struct timespec ts;
    T(sched_rr_get_interval(-1, &ts));
    T(sched_rr_get_interval(0, &ts));
    return 0;
}
