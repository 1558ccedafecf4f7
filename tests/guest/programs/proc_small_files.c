/* coredump_filter, io, lseek's ends, fdinfo, sysfs(2), and what a sleep does with a bad remainder. */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void filter(void) {
    static const char *values[] = {"0", "0x7f", "010", "0xffffffff", "-1", "+5", " 7", "7 ", "7\n", "", "zz", "5\n6"};
    int fd = open("/proc/self/coredump_filter", O_RDWR);
    char text[32] = "";
    for (int i = 0; i < 12; i++) {
        errno = 0;
        int result = pwrite(fd, values[i], strlen(values[i]), 0), error = errno;
        pread(fd, text, 31, 0);
        printf("filter %d: %d %d -> %s", i, result, result < 0 ? error : 0, text);
    }
    fflush(stdout);
    if (fork() == 0) {
        fd = open("/proc/self/coredump_filter", O_RDONLY);
        pread(fd, text, 31, 0);
        printf("child %s", text);
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
}

static void io(void) {
    long before[4], after[4];
    char text[512] = "", buffer[100];
    int fd = open("/proc/self/io", O_RDONLY), zero = open("/dev/zero", O_RDWR);
    for (int i = 0; i < 2; i++) { /* counting begins with the first look */
        memset(text, 0, sizeof text);
        pread(fd, text, 511, 0);
    }
    sscanf(text, "rchar: %ld wchar: %ld syscr: %ld syscw: %ld", before, before + 1, before + 2, before + 3);
    long header = strlen(text);
    read(zero, buffer, 100);
    write(zero, buffer, 40);
    write(zero, buffer, 2);
    memset(text, 0, sizeof text);
    pread(fd, text, 511, 0);
    sscanf(text, "rchar: %ld wchar: %ld syscr: %ld syscw: %ld", after, after + 1, after + 2, after + 3);
    printf("io %ld %ld %ld %ld\n", after[0] - before[0] - header, after[1] - before[1], after[2] - before[2],
           after[3] - before[3]);
}

static void ends(void) {
    static const char *names[] = {
        "status", "stat",    "maps", "environ", "cmdline", "auxv",    "io",        "limits",          "comm",
        "statm",  "mounts",  "mem",  "cgroup",  "fdinfo/0", "loginuid", "sessionid", "coredump_filter", "oom_score_adj",
        "task",   "uid_map", "../stat", "../meminfo", "../net/tcp", "../sys/kernel/pid_max", "../version", "attr/current"};
    for (int i = 0; i < 26; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/%s", names[i]);
        int fd = open(path, O_RDONLY);
        long end = lseek(fd, 0, SEEK_END);
        printf("%s: end %ld %d", names[i], end, end < 0 ? errno : 0);
        lseek(fd, 0, SEEK_SET);
        printf(" at %ld", (long)lseek(fd, 5, SEEK_CUR));
        long data = lseek(fd, 0, SEEK_DATA);
        printf(" data %ld %d\n", data, data < 0 ? errno : 0);
        close(fd);
    }
}

static void show_info(int fd) {
    char path[64], text[2048] = "", *line;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    int info = open(path, O_RDONLY);
    read(info, text, sizeof text - 1);
    close(info);
    for (line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *mask = strstr(line, "mask:"), *write = strstr(line, "WRITE");
        if (!strncmp(line, "flags", 5))
            puts(line);
        else if (!strncmp(line, "tty", 3))
            puts("tty");
        else if (!strncmp(line, "inotify", 7))
            printf("%.13s %.24s\n", line, mask);
        else if (!strncmp(line, "lock", 4))
            printf("%.*s %s\n", (int)(write - line), line, strchr(strrchr(line, ':'), ' '));
    }
}

static void infos(void) {
    int notify = inotify_init1(IN_NONBLOCK);
    inotify_add_watch(notify, "/", IN_ALL_EVENTS);
    inotify_add_watch(notify, "/dev", IN_CREATE | IN_ONLYDIR | IN_EXCL_UNLINK | IN_DONT_FOLLOW);
    inotify_add_watch(notify, "/dev/null", IN_OPEN | IN_ONESHOT);
    show_info(notify);
    int fd = open("locked", O_RDWR | O_CREAT, 0600);
    struct flock lock = {.l_type = F_WRLCK, .l_start = 3, .l_len = 10};
    fcntl(fd, F_SETLK, &lock);
    show_info(fd);
    show_info(open("/dev/ptmx", O_RDWR | O_NOCTTY));
    mqd_t queue = mq_open("/cloche_small", O_RDWR | O_CREAT, 0600, NULL);
    show_info(queue);
    mq_unlink("/cloche_small");
}

static void kinds(void) {
    char name[64] = "";
    long count = syscall(SYS_sysfs, 3), index = syscall(SYS_sysfs, 1, "tmpfs");
    printf("sysfs %d %d %ld %s", count > 3, index >= 0, syscall(SYS_sysfs, 2, index, name), name);
    printf(" %ld %d", syscall(SYS_sysfs, 1, "nonesuch"), errno);
    printf(" %ld %d", syscall(SYS_sysfs, 2, count, name), errno);
    printf(" %ld %d", syscall(SYS_sysfs, 4, 0, 0), errno);
    printf(" %ld %d", syscall(SYS_sysfs, 1, 0), errno);
    printf(" %ld %d\n", syscall(SYS_sysfs, 2, 0, 1), errno);
}

static void nothing(int signo) {}

static void sleeps(void) {
    struct sigaction action = {.sa_handler = nothing};
    struct itimerval soon = {{0, 0}, {0, 5000}};
    struct timespec time = {5, 0}, small = {0, 1000};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &soon, NULL);
    printf("nanosleep %ld", syscall(SYS_nanosleep, &time, (void *)1));
    printf(" %d", errno);
    setitimer(ITIMER_REAL, &soon, NULL);
    printf(" %ld", syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &time, (void *)1));
    printf(" %d", errno);
    printf(" %ld\n", syscall(SYS_nanosleep, &small, (void *)1));
}

int main(void) {
    filter();
    io();
    ends();
    infos();
    kinds();
    sleeps();
    return 0;
}
