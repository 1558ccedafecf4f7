/* Single answers that a review found to differ, and that no other program here asks for. */
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define GET_MNTNS_ID _IOR(0xb7, 5, uint64_t)

#define SHOW(call)                                                                                                      \
    do {                                                                                                                \
        errno = 0;                                                                                                      \
        long result_ = (long)(call);                                                                                    \
        printf("%s: %s %s\n", #call, result_ < 0 ? "-1" : result_ ? "more" : "0", result_ < 0 ? strerrorname_np(errno) : "-"); \
        fflush(stdout);                                                                                                 \
    } while (0)

static void namespaces(void)
{
    uint64_t id = 0, again = 0;
    int mnt = open("/proc/self/ns/mnt", O_RDONLY), uts = open("/proc/self/ns/uts", O_RDONLY);
    SHOW(ioctl(mnt, GET_MNTNS_ID, &id));
    SHOW(ioctl(mnt, GET_MNTNS_ID, &again));
    printf("the same %d, not 0 %d\n", id == again, id != 0);
    SHOW(ioctl(uts, GET_MNTNS_ID, &id));
    SHOW(ioctl(mnt, GET_MNTNS_ID, NULL));
}

static void mappings(void)
{
    int dir = open(".", O_RDONLY);
    SHOW(mmap(NULL, 0, PROT_READ, MAP_SHARED, 99, 0));
    SHOW(mmap(NULL, 0, PROT_READ, MAP_PRIVATE, -1, 0));
    SHOW(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, 99, 0));
    SHOW(mmap(NULL, 0, PROT_READ, MAP_PRIVATE, dir, 0));
    SHOW(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, dir, 0));
    SHOW(mmap(NULL, 4096, PROT_READ, MAP_SHARED_VALIDATE | 1 << 26, 99, 0));
}

static void direct(void)
{
    SHOW(open("/dev/shm", O_RDONLY | O_DIRECT));
    SHOW(open("/dev/shm", O_RDONLY | O_DIRECT | O_DIRECTORY));
    SHOW(open("/proc", O_RDONLY | O_DIRECT));
    SHOW(open("/proc/version", O_RDONLY | O_DIRECT));
    int dir = open("/dev/shm", O_RDONLY);
    SHOW(fcntl(dir, F_SETFL, O_DIRECT));
}

static void ends(void)
{
    static const char *names[] = {"version", "meminfo", "cpuinfo", "uptime", "mounts", "filesystems", "self/status", "self/maps",
                                  "self/stat", "self/cmdline", "self/environ", "self/auxv", "self/comm", "self/mem", "self/limits",
                                  "self/mountinfo", "self/oom_score_adj", "sys/kernel/hostname", "sys/vm/overcommit_memory", "net/tcp",
                                  "net/unix", "self/fdinfo/0", "self/io", "self/cgroup", "self/uid_map", "self/smaps",
                                  "self", "self/fd", "self/task", "sys", "net", "self/ns"};
    for (int i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%s", names[i]);
        int fd = open(path, O_RDONLY);
        if (fd < 0) {
            printf("%s: %s\n", names[i], strerrorname_np(errno));
            continue;
        }
        static const int ways[] = {SEEK_END, SEEK_DATA, SEEK_HOLE};
        printf("%s:", names[i]);
        for (int k = 0; k < 3; k++) {
            lseek(fd, 0, SEEK_SET);
            errno = 0;
            long at = lseek(fd, 0, ways[k]);
            printf(" %s", at < 0 ? strerrorname_np(errno) : at == 0 ? "0" : "more");
        }
        printf("\n");
        close(fd);
    }
}

/* A session's first terminal: never a master. */
static void terminals(void)
{
    int master, slave, status;
    if (openpty(&master, &slave, NULL, NULL, NULL))
        return;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        SHOW(ioctl(slave, TIOCSCTTY, 0));
        setsid();
        SHOW(ioctl(master, TIOCSCTTY, 0));
        SHOW(ioctl(slave, TIOCSCTTY, 0));
        SHOW(ioctl(slave, TIOCSCTTY, 0));
        SHOW(tcgetsid(master) == getpid());
        fflush(stdout);
        pid_t other = fork();
        if (other == 0) {
            setsid();
            SHOW(setresuid(1000, 1000, 1000) * 0);
            SHOW(ioctl(slave, TIOCSCTTY, 1));
            fflush(stdout);
            _exit(0);
        }
        waitpid(other, &status, 0);
        _exit(0);
    }
    waitpid(pid, &status, 0);
}

int main(void)
{
    namespaces();
    mappings();
    direct();
    ends();
    terminals();
    return 0;
}
