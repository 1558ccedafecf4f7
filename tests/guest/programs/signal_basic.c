/* sigaction, siginfo of kill, tgkill and sigqueue, and the values that sigaction gives back. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile int count, code, pid_ok, uid_ok, value;

static void on_info(int signo, siginfo_t *info, void *context)
{
    count++;
    code = info->si_code;
    pid_ok = info->si_pid == getpid();
    uid_ok = info->si_uid == getuid();
    value = info->si_value.sival_int;
}

int main(void)
{
    struct sigaction act, old;
    memset(&act, 0, sizeof act);
    act.sa_sigaction = on_info;
    act.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaddset(&act.sa_mask, SIGTERM);
    printf("sigaction %d\n", sigaction(SIGUSR1, &act, &old));
    printf("old default %d\n", old.sa_handler == SIG_DFL);
    sigaction(SIGUSR1, NULL, &old);
    printf("old handler %d flags %x term %d hup %d\n", old.sa_sigaction == on_info, old.sa_flags & 0x7fffffff,
           sigismember(&old.sa_mask, SIGTERM), sigismember(&old.sa_mask, SIGHUP));
    kill(getpid(), SIGUSR1);
    printf("kill: count %d code %d pid %d uid %d\n", count, code, pid_ok, uid_ok);
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1);
    printf("tgkill: count %d code %d pid %d\n", count, code, pid_ok);
    syscall(SYS_tkill, syscall(SYS_gettid), SIGUSR1);
    printf("tkill: count %d code %d\n", count, code);
    union sigval v = {.sival_int = 4711};
    sigqueue(getpid(), SIGUSR1, v);
    printf("sigqueue: count %d code %d pid %d value %d\n", count, code, pid_ok, value);
    raise(SIGUSR1);
    printf("raise: count %d code %d\n", count, code);
    signal(SIGUSR1, SIG_IGN);
    raise(SIGUSR1);
    printf("ignored: count %d\n", count);
    sigaction(SIGUSR1, NULL, &old);
    printf("is SIG_IGN %d\n", old.sa_handler == SIG_IGN);
    errno = 0;
    printf("SIGKILL %d", sigaction(SIGKILL, &act, NULL));
    printf(" errno %d\n", errno);
    printf("SIGSTOP %d", sigaction(SIGSTOP, &act, NULL));
    printf(" errno %d\n", errno);
    printf("SIGKILL read %d\n", sigaction(SIGKILL, NULL, &old));
    printf("65: %d", sigaction(65, NULL, &old));
    printf(" errno %d\n", errno);
    return 0;
}
