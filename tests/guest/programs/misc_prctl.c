/* prctl(2): options about the process, and those that do not exist. */
#include <errno.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define T(...) do { errno = 0; long r_ = syscall(SYS_prctl, __VA_ARGS__); printf("%s = %ld %d\n", #__VA_ARGS__, r_, r_ < 0 ? errno : 0); } while (0)

int main(void) {
    int value = -1;
    T(PR_GET_DUMPABLE);
    T(PR_SET_DUMPABLE, 0);
    T(PR_GET_DUMPABLE);
    T(PR_SET_DUMPABLE, 1);
    T(PR_SET_DUMPABLE, 3);
    T(PR_SET_PDEATHSIG, 65);
    T(PR_SET_PDEATHSIG, 10);
    T(PR_GET_PDEATHSIG, &value);
    printf("%d\n", value);
    T(PR_SET_CHILD_SUBREAPER, 1);
    T(PR_GET_CHILD_SUBREAPER, &value);
    printf("%d\n", value);
    T(PR_GET_TIMERSLACK);
    T(PR_SET_TIMERSLACK, 1234);
    T(PR_GET_TIMERSLACK);
    T(PR_SET_TIMERSLACK, 0);
    T(PR_GET_TIMERSLACK);
    T(PR_GET_TIMING);
    T(PR_SET_TIMING, 1);
    T(PR_SET_TIMING, 0);
    T(PR_GET_TSC, &value);
    printf("%d\n", value);
    T(PR_SET_TSC, PR_TSC_ENABLE);
    T(PR_SET_TSC, 0);
    T(PR_SET_TSC, 3);
    T(PR_GET_TSC, 8);
    T(PR_GET_TSC, &value);
    printf("%d\n", value);
    T(PR_GET_SECCOMP);
    T(PR_MCE_KILL_GET, 0, 0, 0, 0);
    T(PR_MCE_KILL, 9, 0, 0, 0);
    T(PR_TASK_PERF_EVENTS_DISABLE);
    T(PR_TASK_PERF_EVENTS_ENABLE);
    T(PR_GET_THP_DISABLE, 0, 0, 0, 0);
    T(PR_GET_THP_DISABLE, 0, 0, 0, 1);
    T(PR_GET_PDEATHSIG, 8);
    T(PR_GET_NAME, 8);
    T(0);
    T(999);
    T(-1);
    T(PR_GET_UNALIGN, &value);
    T(PR_GET_FPEMU, &value);
    T(PR_GET_ENDIAN, &value);
    T(PR_SET_MM, 1, 0, 1, 0);
    T(PR_GET_SPECULATION_CTRL, 99, 0, 0, 0);
    T(PR_GET_SPECULATION_CTRL, 0, 1, 0, 0);
    long auxv[60] = {0};
    printf("%d", syscall(SYS_prctl, 0x41555856, auxv, sizeof auxv, 0, 0) >= 320);
    printf(" %d\n", auxv[0] > 0);
    return 0;
}
