/* An open /proc/PID is a descriptor of the process too, for pidfd_send_signal alone. */
#include "event_show.h"
#include <sys/syscall.h>

int main(void)
{
    char name[64];
    pid_t c = fork();
    if (!c)
        for (;;)
            pause();
    snprintf(name, sizeof name, "/proc/%d", c);
    int d = open(name, O_RDONLY | O_DIRECTORY);
    int p = open(name, O_PATH);
    SHOW(syscall(SYS_pidfd_send_signal, d, 0, NULL, 0));
    SHOW(syscall(SYS_pidfd_send_signal, p, 0, NULL, 0));
    int t = openat(d, "task", O_RDONLY);
    SHOW(syscall(SYS_pidfd_send_signal, t, 0, NULL, 0));
    snprintf(name, sizeof name, "%d", c);
    int e = openat(t, name, O_RDONLY);
    SHOW(syscall(SYS_pidfd_send_signal, e, 0, NULL, 0));
    SHOW(syscall(SYS_pidfd_getfd, d, 0, 0));
    siginfo_t info = {0};
    SHOW(waitid(P_PIDFD, d, &info, WEXITED | WNOHANG));
    SHOW(syscall(SYS_pidfd_send_signal, d, SIGKILL, NULL, 0));
    SHOW(waitid(P_PID, c, &info, WEXITED | WNOWAIT));
    SHOW(syscall(SYS_pidfd_send_signal, d, SIGKILL, NULL, 0));
    SHOW(waitid(P_PID, c, &info, WEXITED));
    printf("%d\n", info.si_status);
    SHOW(syscall(SYS_pidfd_send_signal, d, SIGKILL, NULL, 0));
    return 0;
}
