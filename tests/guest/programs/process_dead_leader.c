/* A leader that has ended while a thread lives on: what others still see of it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int ends[2], leader, thread;

static void say(const char *what, long result)
{
    printf("%s: %ld %s\n", what, result, result < 0 ? strerror(errno) : "");
}

static void show(const char *form, int pid, int tid)
{
    char path[64], text[4096], *line;
    snprintf(path, sizeof path, form, pid, tid);
    FILE *file = fopen(path, "r");
    snprintf(path, sizeof path, form, 0, tid == leader ? 1 : 2);
    if (!file) {
        printf("%s: %s\n", path, strerror(errno));
        return;
    }
    size_t size = fread(text, 1, sizeof text - 1, file);
    if (!size) printf("%s: empty\n", path);
    text[size] = 0;
    fclose(file);
    if (strstr(form, "/status")) {
        for (line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
            if (!strncmp(line, "State", 5) || !strncmp(line, "Threads", 7) || !strncmp(line, "Vm", 2) || !strncmp(line, "Name", 4))
                printf("%s: %s\n", path, strncmp(line, "Vm", 2) ? line : "Vm");
    } else if (strstr(form, "/stat")) {
        int num = 0;
        for (line = strtok(strrchr(text, ')') + 1, " "); line; line = strtok(NULL, " "), num++)
            if (num == 0 || num == 17) printf("%s: field %d: %s\n", path, num + 3, line);
    } else
        printf("%s: %s\n", path, text);
}

static void list(const char *form, int pid)
{
    char path[64];
    struct dirent *entry;
    struct stat st;
    snprintf(path, sizeof path, form, pid);
    DIR *dir = opendir(path);
    if (!dir) {
        say("opendir", -1);
        return;
    }
    fstat(dirfd(dir), &st);
    printf("%d links:", (int)st.st_nlink);
    while ((errno = 0, entry = readdir(dir)))
        if (atoi(entry->d_name) == leader)
            printf(" leader");
        else if (atoi(entry->d_name) == thread)
            printf(" thread");
        else if (entry->d_name[0] != '.')
            printf(" %s", entry->d_name);
    printf(" %s\n", errno ? strerror(errno) : "");
    closedir(dir);
}

static void *stay(void *arg)
{
    char byte;
    int tid = gettid();
    write(ends[1], &tid, sizeof tid);
    for (;;) pause();
    return arg;
}

static void look(int pid)
{
    cpu_set_t set;
    char path[64], byte;
    struct rlimit limit;
    struct sched_param param;
    show("/proc/%d/stat", pid, pid);
    show("/proc/%d/status", pid, pid);
    show("/proc/%d/comm", pid, pid);
    show("/proc/%d/cmdline", pid, pid);
    show("/proc/%d/task/%d/stat", pid, pid);
    show("/proc/%d/task/%d/status", pid, pid);
    show("/proc/%d/task/%d/comm", pid, pid);
    show("/proc/%d/task/%d/stat", pid, thread);
    show("/proc/%d/task/%d/status", pid, thread);
    list("/proc/%d/task", pid);
    list("/proc/%d/fd", pid);
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    say("readlink exe", readlink(path, path, sizeof path) > 0 ? 1 : -1);
    snprintf(path, sizeof path, "/proc/%d/cwd", pid);
    say("readlink cwd", readlink(path, path, sizeof path) > 0 ? 1 : -1);
    say("kill 0", kill(pid, 0));
    say("tgkill leader 0", syscall(SYS_tgkill, pid, pid, 0));
    say("tgkill leader CONT", syscall(SYS_tgkill, pid, pid, SIGCONT));
    say("tgkill thread 0", syscall(SYS_tgkill, pid, thread, 0));
    say("tkill leader", syscall(SYS_tkill, pid, 0));
    say("getpgid", getpgid(pid) == getpgrp() ? 1 : -1);
    say("getsid", getsid(pid) == getsid(0) ? 1 : -1);
    say("getpriority", getpriority(PRIO_PROCESS, pid));
    say("setpriority", setpriority(PRIO_PROCESS, pid, 3));
    say("getpriority", getpriority(PRIO_PROCESS, pid));
    say("getpriority thread", getpriority(PRIO_PROCESS, thread));
    say("sched_getscheduler", sched_getscheduler(pid));
    say("sched_getparam", sched_getparam(pid, &param));
    say("sched_getaffinity", sched_getaffinity(pid, sizeof set, &set));
    say("sched_setaffinity", sched_setaffinity(pid, sizeof set, &set));
    say("ioprio_get", syscall(SYS_ioprio_get, 1, pid));
    say("prlimit", prlimit(pid, RLIMIT_NOFILE, NULL, &limit));
    struct iovec own = {&byte, 1}, other = {&byte, 1};
    say("process_vm_readv leader", process_vm_readv(pid, &own, 1, &other, 1, 0));
    say("process_vm_readv thread", process_vm_readv(thread, &own, 1, &other, 1, 0));
    say("kcmp", syscall(SYS_kcmp, pid, thread, 0, 0, 0) < 0 ? -1 : 1);
    int fd = syscall(SYS_pidfd_open, pid, 0);
    say("pidfd_open", fd < 0 ? -1 : 1);
    say("pidfd_getfd", syscall(SYS_pidfd_getfd, fd, 0, 0));
    say("pidfd_send_signal", syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
    say("setns pidfd", syscall(308, fd, 0x04000000) < 0 ? -1 : 0);
    struct pollfd poll_fd = {fd, POLLIN, 0};
    say("poll pidfd", poll(&poll_fd, 1, 0));
    close(fd);
    fd = syscall(SYS_pidfd_open, pid, O_EXCL);
    say("pidfd_open PIDFD_THREAD", fd < 0 ? -1 : 1);
    poll_fd.fd = fd;
    say("poll it", poll(&poll_fd, 1, 0));
    say("signal it", syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
    close(fd);
    fd = syscall(SYS_pidfd_open, thread, O_EXCL);
    say("pidfd_open of the thread", fd < 0 ? -1 : 1);
    poll_fd.fd = fd;
    say("poll it", poll(&poll_fd, 1, 0));
    close(fd);
    clockid_t clock = (~(unsigned)pid << 3) | 2;
    struct timespec time;
    say("clock_gettime process", clock_gettime(clock, &time));
    say("clock_gettime leader", clock_gettime(clock | 4, &time));
    int head;
    (void)head;
    void *list_head = &head;
    size_t list_size;
    say("get_robust_list", syscall(SYS_get_robust_list, pid, &list_head, &list_size));
    printf("its list: %s\n", list_head ? "one" : "none");
    say("setpgid", setpgid(pid, pid));
    say("setpriority group", setpriority(PRIO_PGRP, pid, 5));
    say("getpriority leader", getpriority(PRIO_PROCESS, pid));
    say("getpriority thread", getpriority(PRIO_PROCESS, thread));
    say("waitpid nohang", waitpid(pid, NULL, WNOHANG));
}

static void *briefly(void *arg)
{
    int tid = gettid();
    char byte;
    write(ends[1], &tid, sizeof tid);
    read(((int *)arg)[0], &byte, 1);
    return NULL;
}

/* A thread's own descriptor: readable and hung up once the thread has ended. */
static void watch_thread(void)
{
    int go[2], tid;
    pthread_t t;
    pipe(go);
    pthread_create(&t, NULL, briefly, go);
    read(ends[0], &tid, sizeof tid);
    int fd = syscall(SYS_pidfd_open, tid, O_EXCL);
    struct pollfd poll_fd = {fd, POLLIN, 0};
    say("poll thread", poll(&poll_fd, 1, 0));
    write(go[1], "", 1);
    say("poll its end", poll(&poll_fd, 1, -1));
    pthread_join(t, NULL);
    while (kill(tid, 0) == 0) sched_yield();
    say("poll when it is gone", poll(&poll_fd, 1, -1));
    printf("events %x\n", poll_fd.revents);
    say("signal it", syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
    say("getfd of it", syscall(SYS_pidfd_getfd, fd, 0, 0));
    say("kcmp with it", syscall(SYS_kcmp, tid, getpid(), 0, 0, 0));
    say("open it", syscall(SYS_pidfd_open, tid, O_EXCL));
}

int main(void)
{
    char path[64], text[512];
    int status;
    setvbuf(stdout, NULL, _IONBF, 0);
    pipe(ends);
    int pid = fork();
    if (!pid) {
        pthread_t t;
        pthread_create(&t, NULL, stay, NULL);
        syscall(SYS_exit, 3);
    }
    read(ends[0], &thread, sizeof thread);
    leader = pid;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    do {  /* until the leader is a zombie */
        int fd = open(path, O_RDONLY);
        ssize_t size = read(fd, text, sizeof text - 1);
        text[size > 0 ? size : 0] = 0;
        close(fd);
    } while (!strstr(text, ") Z"));
    look(pid);
    for (int kind = 1; kind < 7; kind++) {
        errno = 0;
        long order = syscall(SYS_kcmp, pid, thread, kind, 0, 0);
        printf("kcmp %d: %s\n", kind, order > 0 ? "other" : order == 0 ? "same" : strerror(errno));
    }
    say("kill", kill(pid, SIGKILL));
    say("waitpid", waitpid(pid, &status, 0) == pid ? status : -1);
    watch_thread();
    return 0;
}
