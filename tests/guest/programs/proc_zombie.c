/* /proc of a child that is alive, a zombie, and reaped. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char path[64], text[4096];

static int listed(int pid) {
    int seen = 0;
    DIR *d = opendir("/proc");
    for (struct dirent *e; (e = readdir(d));) seen += atoi(e->d_name) == pid;
    closedir(d);
    return seen;
}

static const char *file(int pid, const char *name) {
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return strerror(errno);
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n < 0) return strerror(errno);
    text[n] = 0;
    return text;
}

int main(void) {
    int line[2];
    char byte;
    pipe(line);
    int pid = fork();
    if (pid == 0) {
        close(line[1]);
        read(line[0], &byte, 1);
        _exit(3);
    }
    close(line[0]);
    printf("alive %d\n", listed(pid));
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int stat_fd = open(path, O_RDONLY);
    snprintf(path, sizeof path, "/proc/%d", pid);
    int dir_fd = open(path, O_RDONLY | O_DIRECTORY);
    close(line[1]);
    siginfo_t info;
    waitid(P_PID, pid, &info, WEXITED | WNOWAIT);
    char *state = strrchr(file(pid, "stat"), ')');
    printf("zombie %.3s listed %d\n", state, listed(pid));
    printf("cmdline [%s] maps [%s]\n", file(pid, "cmdline"), "");
    printf("maps [%s]\n", file(pid, "maps"));
    printf("statm %s", file(pid, "statm"));
    snprintf(path, sizeof path, "/proc/%d/cwd", pid);
    errno = 0;
    printf("cwd %zd", readlink(path, text, 10));
    printf(" %d\n", errno);
    waitpid(pid, NULL, 0);
    printf("reaped %d\n", listed(pid));
    printf("%s\n", file(pid, "stat"));
    errno = 0;
    printf("open file %zd", read(stat_fd, text, 100));
    printf(" %d\n", errno);
    errno = 0;
    printf("open directory %d", openat(dir_fd, "stat", O_RDONLY));
    printf(" %d\n", errno);
    printf("%s\n", file(0, "stat"));
    return 0;
}
