/* A process of another user: its memory, descriptors, registers and secrets must be out of reach. */
#define _GNU_SOURCE
#include "hostile.h"
#include <dirent.h>
#include <grp.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static char secret[64] = "nothing";
static int failures;

static void got(const char *what)
{
    printf("reached: %s (%s)\n", what, strerror(errno));
    failures++;
}

int main(void)
{
    int ready[2], fds[3];
    pipe(ready);
    pid_t victim = fork();
    if (victim == 0) {
        strcpy(secret, "the victim's secret");
        setenv("SECRET", "in the environment", 1);
        open("/etc/passwd", O_RDONLY);
        write(ready[1], "x", 1);
        for (;;)
            pause();
    }
    char c, path[128], buffer[256];
    read(ready[0], &c, 1);
    if (setgroups(0, NULL) || setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000)) {
        perror("setuid");
        return 1;
    }
    static const char *const files[] = {"mem", "environ", "maps", "smaps", "auxv", "pagemap", "stack", "syscall", "io", "personality", "clear_refs", "oom_score_adj", "comm", "coredump_filter", "timerslack_ns"};
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", victim, files[i]);
        for (int mode = 0; mode < 2; mode++) {
            int fd = open(path, mode ? O_WRONLY : O_RDONLY);
            if (fd < 0)
                continue;
            if (mode && write(fd, "1", 1) == 1)
                got(path);
            else if (!mode && i < 10) {
                ssize_t n = i ? read(fd, buffer, sizeof buffer) : pread(fd, buffer, 64, (off_t)secret);
                if (n > 0)
                    got(path);
            }
            close(fd);
        }
    }
    static const char *const links[] = {"exe", "cwd", "root", "fd/0", "fd/3", "map_files"};
    for (unsigned i = 0; i < sizeof links / sizeof *links; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", victim, links[i]);
        if (readlink(path, buffer, sizeof buffer) > 0 || open(path, O_RDONLY) >= 0)
            got(path);
    }
    snprintf(path, sizeof path, "/proc/%d/fd", victim);
    DIR *dir = opendir(path);
    if (dir) {
        got(path);
        closedir(dir);
    }
    struct iovec local = {buffer, 64}, remote = {secret, 64};
    if (process_vm_readv(victim, &local, 1, &remote, 1, 0) >= 0)
        got("process_vm_readv");
    if (process_vm_writev(victim, &local, 1, &remote, 1, 0) >= 0)
        got("process_vm_writev");
    if (ptrace(PTRACE_ATTACH, victim, 0, 0) == 0)
        got("ptrace attach");
    if (ptrace(PTRACE_SEIZE, victim, 0, 0) == 0)
        got("ptrace seize");
    for (int signo = 0; signo < 65; signo++)
        if (signo != SIGCONT && kill(victim, signo) == 0)
            got("kill");
    if (syscall(SYS_tgkill, victim, victim, 9) == 0)
        got("tgkill");
    struct rlimit limit = {1, 1};
    if (prlimit(victim, RLIMIT_NOFILE, &limit, NULL) == 0)
        got("prlimit");
    int pidfd = syscall(SYS_pidfd_open, victim, 0);
    if (pidfd >= 0) {
        if (syscall(SYS_pidfd_getfd, pidfd, 0, 0) >= 0)
            got("pidfd_getfd");
        if (syscall(SYS_pidfd_send_signal, pidfd, 9, NULL, 0) == 0)
            got("pidfd_send_signal");
    }
    if (syscall(SYS_kcmp, getpid(), victim, 0, 0, 0) >= 0)
        got("kcmp");
    if (syscall(SYS_move_pages, victim, 0, NULL, NULL, NULL, 0) == 0)
        got("move_pages");
    unsigned long one = 1;
    if (syscall(SYS_sched_setaffinity, victim, sizeof one, &one) == 0)
        got("sched_setaffinity");
    if (setpriority(PRIO_PROCESS, victim, 5) == 0)
        got("setpriority");
    void *head;
    size_t length;
    if (syscall(SYS_get_robust_list, victim, &head, &length) == 0)
        got("get_robust_list");
    if (syscall(SYS_process_madvise, pidfd, &remote, 1, 20, 0) >= 0)
        got("process_madvise");
    if (setresuid(0, 0, 0) == 0 || setresgid(0, 0, 0) == 0 || setgroups(0, NULL) == 0)
        got("root again");
    /* Our own memory through /proc is ours, but not the sentry's pages of it. */
    int mem = open("/proc/self/mem", O_RDWR);
    if (mem >= 0) {
        static const uint64_t kept[] = {STUB_BASE, INFO_BASE, VDSO_BASE};
        for (int i = 0; i < 3; i++)
            if (pwrite(mem, "\xcc", 1, kept[i]) == 1)
                got("/proc/self/mem over the stub");
    }
    /* Numbers of the host: the sentry, the gofer and their descriptors must not show. */
    for (int fd = 3; fd < 3000; fd++) {
        if (fd == ready[0] || fd == ready[1] || fd == pidfd || fd == mem)
            continue;
        if (fcntl(fd, F_GETFD) >= 0 || pread(fd, buffer, 1, 0) >= 0)
            got("a descriptor that nobody gave");
    }
    (void)fds;
    printf("failures %d\n", failures);
    return failures != 0;
}
