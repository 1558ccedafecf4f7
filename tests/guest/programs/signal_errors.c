/* Error numbers of the calls of signals, by their raw numbers. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHOW(name, call)                                                                                     \
    do {                                                                                                      \
        errno = 0;                                                                                            \
        long r_ = (call);                                                                                     \
        printf("%s: %ld %d\n", name, r_, errno);                                                              \
    } while (0)

int main(void)
{
    char buffer[256] = {0};
    unsigned long mask = 0;
    long pid = getpid(), tid = syscall(SYS_gettid);
    SHOW("kill 0", kill(pid, 0));
    SHOW("kill bad signal", kill(pid, 65));
    SHOW("kill negative signal", kill(pid, -1));
    SHOW("kill nobody", kill(0x3fffff, 0));
    SHOW("kill group nobody", kill(-0x3fffff, SIGTERM));
    SHOW("kill INT_MIN", kill(-0x7fffffff - 1, SIGTERM));
    SHOW("tgkill 0", syscall(SYS_tgkill, 0, tid, 0));
    SHOW("tgkill negative", syscall(SYS_tgkill, -1, tid, 0));
    SHOW("tgkill wrong group", syscall(SYS_tgkill, 1, tid, 0));
    SHOW("tgkill ok", syscall(SYS_tgkill, pid, tid, 0));
    SHOW("tgkill bad signal", syscall(SYS_tgkill, pid, tid, 70));
    SHOW("tkill 0", syscall(SYS_tkill, 0, 0));
    SHOW("tkill nobody", syscall(SYS_tkill, 0x3fffff, 0));
    SHOW("sigaction size", syscall(SYS_rt_sigaction, SIGUSR1, 0, 0, 16));
    SHOW("sigaction fault", syscall(SYS_rt_sigaction, SIGUSR1, 8, 0, 8));
    SHOW("sigaction old fault", syscall(SYS_rt_sigaction, SIGUSR1, 0, 8, 8));
    SHOW("sigaction 0", syscall(SYS_rt_sigaction, 0, 0, buffer, 8));
    SHOW("sigprocmask size", syscall(SYS_rt_sigprocmask, 0, &mask, 0, 4));
    SHOW("sigprocmask how", syscall(SYS_rt_sigprocmask, 3, &mask, 0, 8));
    SHOW("sigprocmask how without set", syscall(SYS_rt_sigprocmask, 3, 0, &mask, 8));
    SHOW("sigprocmask fault", syscall(SYS_rt_sigprocmask, 0, 8, 0, 8));
    SHOW("sigpending size", syscall(SYS_rt_sigpending, &mask, 16));
    SHOW("sigpending short", syscall(SYS_rt_sigpending, &mask, 2));
    SHOW("sigpending fault", syscall(SYS_rt_sigpending, 8, 8));
    SHOW("sigsuspend size", syscall(SYS_rt_sigsuspend, &mask, 4));
    SHOW("sigsuspend fault", syscall(SYS_rt_sigsuspend, 8, 8));
    SHOW("sigtimedwait size", syscall(SYS_rt_sigtimedwait, &mask, 0, 0, 4));
    SHOW("sigtimedwait fault", syscall(SYS_rt_sigtimedwait, 8, 0, 0, 8));
    SHOW("sigtimedwait time fault", syscall(SYS_rt_sigtimedwait, &mask, 0, 8, 8));
    siginfo_t info;
    memset(&info, 0, sizeof info);
    info.si_code = SI_USER;
    SHOW("sigqueueinfo as kill to another", syscall(SYS_rt_sigqueueinfo, getppid(), 0, &info));
    info.si_code = SI_TKILL;
    SHOW("sigqueueinfo as tkill to another", syscall(SYS_rt_sigqueueinfo, getppid(), 0, &info));
    info.si_code = SI_QUEUE;
    SHOW("sigqueueinfo nobody", syscall(SYS_rt_sigqueueinfo, 0x3fffff, SIGUSR1, &info));
    SHOW("sigqueueinfo 0", syscall(SYS_rt_sigqueueinfo, pid, 0, &info));
    SHOW("sigqueueinfo fault", syscall(SYS_rt_sigqueueinfo, pid, 0, 8));
    SHOW("tgsigqueueinfo bad", syscall(SYS_rt_tgsigqueueinfo, 0, tid, 0, &info));
    SHOW("tgsigqueueinfo ok", syscall(SYS_rt_tgsigqueueinfo, pid, tid, 0, &info));
    SHOW("sigaltstack fault", syscall(SYS_sigaltstack, 8, 0));
    SHOW("restart_syscall", syscall(SYS_restart_syscall));
    return 0;
}
