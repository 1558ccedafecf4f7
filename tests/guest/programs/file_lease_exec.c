/* Starting a program breaks the write lease of a process that has it open, as opening it does: as a program and as an
 * interpreter. */
#include "file_common.h"
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t told;
static int held;

static void handler(int signo) { told++; }

static void copy(const char *from, const char *to, mode_t mode)
{
    char buffer[65536];
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, mode);
    ssize_t n;
    while ((n = read(in, buffer, sizeof buffer)) > 0)
        write(out, buffer, n);
    close(in);
    close(out);
}

/* The child executes; the holder is told, and gives the lease up (how) when it has been. */
static void run(const char *what, const char *path, const char *leased, int lease, int how)
{
    int status = -1;
    pid_t pid;
    held = open(leased, O_RDONLY | O_CLOEXEC);
    printf("%s: lease %d", what, fcntl(held, F_SETLEASE, lease));
    told = 0;
    fflush(stdout);
    if ((pid = fork()) == 0) {
        close(held);
        execl(path, path, "child", NULL);
        _exit(90 + (errno == ETXTBSY));
    }
    if (lease == F_WRLCK) {
        sigset_t mask;
        sigprocmask(SIG_SETMASK, NULL, &mask);
        sigdelset(&mask, SIGIO);
        while (!told)
            sigsuspend(&mask);
        printf(" told %d now %d ended %d", told, fcntl(held, F_GETLEASE), waitpid(pid, &status, WNOHANG) == pid);
        if (how < 0)
            close(held);
        else
            fcntl(held, F_SETLEASE, how);
    }
    waitpid(pid, &status, 0);
    printf(" status %d told %d left %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1, told, how < 0 ? -1 : fcntl(held, F_GETLEASE));
    close(held);
}

int main(int argc, char **argv)
{
    char script[256];
    sigset_t block;
    if (argc > 1)
        return 7;
    sigemptyset(&block);
    sigaddset(&block, SIGIO);
    sigprocmask(SIG_BLOCK, &block, NULL);
    signal(SIGIO, handler);
    copy("/proc/self/exe", "program", 0755);
    int fd = open("script", O_WRONLY | O_CREAT | O_TRUNC, 0755);
    char *here = getcwd(NULL, 0);
    write(fd, script, snprintf(script, sizeof script, "#!%s/program\n", here));
    close(fd);
    run("program, given up", "./program", "program", F_WRLCK, F_UNLCK);
    run("program, weakened", "./program", "program", F_WRLCK, F_RDLCK);
    run("program, closed", "./program", "program", F_WRLCK, -1);
    run("program, of readers", "./program", "program", F_RDLCK, F_RDLCK);
    run("interpreter", "./script", "program", F_WRLCK, F_UNLCK);
    run("script", "./script", "script", F_WRLCK, F_UNLCK);
    return 0;
}
