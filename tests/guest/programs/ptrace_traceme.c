/* PTRACE_TRACEME, signals on the way, wait statuses, exec's SIGTRAP. */
#include "ptrace_common.h"

static int handled;
static void on_signal(int signo) { handled = signo; }

int main(int argc, char **argv)
{
    start();
    if (argc > 1) {
        printf("in the new program\n");
        return 9;
    }
    int status;
    int pid = fork();
    if (!pid) {
        signal(SIGUSR1, on_signal);
        signal(SIGUSR2, SIG_IGN);
        T(pt(PTRACE_TRACEME, 0, 0, 0));
        T(pt(PTRACE_TRACEME, 0, 0, 0));
        raise(SIGSTOP);
        raise(SIGUSR1);
        printf("handled %d\n", handled);
        handled = 0;
        raise(SIGUSR1);
        printf("handled %d\n", handled);
        raise(SIGUSR2);
        raise(SIGCHLD);
        raise(SIGWINCH);
        char *args[] = {argv[0], "x", NULL};
        execv("/proc/self/exe", args);
        _exit(1);
    }
    status = step("first", pid);
    printf("state %c\n", state_of(pid));
    T(waitpid(pid, &status, WNOHANG));
    T(pt(PTRACE_CONT, pid, 0, 65));
    pt(PTRACE_CONT, pid, 0, 0);
    step("usr1", pid);
    pt(PTRACE_CONT, pid, 0, SIGUSR1);
    step("usr1 again", pid);
    pt(PTRACE_CONT, pid, 0, 0);
    step("usr2, ignored", pid);
    T(pt(PTRACE_CONT, pid, 0, SIGUSR2));
    step("chld", pid);
    T(pt(PTRACE_CONT, pid, 0, SIGCHLD));
    step("winch", pid);
    siginfo_t info;
    memset(&info, 0, sizeof info);
    T(pt(PTRACE_CONT, pid, 0, 0));
    alarm(20);
    T(waitid(P_PID, pid, &info, WSTOPPED | WNOWAIT));
    printf("exec: signo %d code %d status %d pid %d\n", info.si_signo, info.si_code, info.si_status, info.si_pid == pid);
    T(waitid(P_PID, pid, &info, WEXITED));
    printf("also without WSTOPPED: code %d status %d\n", info.si_code, info.si_status);
    pt(PTRACE_CONT, pid, 0, 0);
    step("end", pid);
    T(waitpid(pid, &status, 0));

    /* A fatal signal, suppressed and then let through. */
    pid = fork();
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGTERM);
        raise(SIGINT);
        _exit(4);
    }
    step("term", pid);
    T(pt(PTRACE_CONT, pid, 0, 0));
    step("int", pid);
    T(pt(PTRACE_CONT, pid, 0, SIGQUIT));
    status = step("quit instead", pid);

    /* PTRACE_KILL, and SIGKILL out of a stop. */
    for (int i = 0; i < 2; i++) {
        pid = fork();
        if (!pid) {
            pt(PTRACE_TRACEME, 0, 0, 0);
            raise(SIGSTOP);
            _exit(4);
        }
        step("stop", pid);
        if (i)
            T(kill(pid, SIGKILL));
        else
            T(pt(PTRACE_KILL, pid, 0, 0));
        step("killed", pid);
    }

    /* Detach with a signal. */
    pid = fork();
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        pause();
        _exit(4);
    }
    step("stop", pid);
    T(pt(PTRACE_DETACH, pid, 0, 99));
    T(pt(PTRACE_DETACH, pid, 0, SIGHUP));
    step("detached", pid);

    /* SIGCHLD of stops. */
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pid = fork();
    if (!pid) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGUSR1);
        _exit(4);
    }
    sigwaitinfo(&set, &info);
    printf("sigchld: code %d status %d pid %d\n", info.si_code, info.si_status, info.si_pid == pid);
    step("usr1", pid);
    pt(PTRACE_CONT, pid, 0, 0);
    sigwaitinfo(&set, &info);
    printf("sigchld: code %d status %d pid %d\n", info.si_code, info.si_status, info.si_pid == pid);
    step("end", pid);
    return 0;
}
