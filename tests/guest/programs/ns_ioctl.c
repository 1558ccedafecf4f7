/* The ioctls of namespaces as files, and the ids that a tracer gets for a tracee in a pid namespace. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

struct info {
    unsigned size, mounts;
    unsigned long id;
};

static void show(const char *name, long result) {
    printf(" %s %ld/%d", name, result > 2 ? 99 : result, result < 0 ? errno : 0);
}

static void traced(void) {
    int go[2], status;
    char byte;
    pipe(go);
    unshare(CLONE_NEWUSER | CLONE_NEWPID);
    pid_t child = fork();
    if (child == 0) {
        read(go[0], &byte, 1);
        if (fork() == 0)
            _exit(0);
        wait(NULL);
        if (vfork() == 0)
            _exit(0);
        _exit(0);
    }
    ptrace(PTRACE_SEIZE, child, 0, PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEVFORKDONE);
    write(go[1], "x", 1);
    for (pid_t born = 0, other; (other = waitpid(-1, &status, __WALL)) > 0;) {
        unsigned long message = 0;
        int event = status >> 16;
        if (other == child && WIFSTOPPED(status) && event) {
            ptrace(PTRACE_GETEVENTMSG, child, 0, &message);
            if (event == PTRACE_EVENT_VFORK_DONE)
                printf("event %d: the same %d\n", event, born == (pid_t)message);
            else
                printf("event %d: outside %d\n", event, message > child);
            born = message;
        }
        if (WIFSTOPPED(status))
            ptrace(PTRACE_CONT, other, 0, 0);
    }
    fflush(stdout);
}

int main(void) {
    static const char *names[] = {"mnt", "pid", "user", "uts", "net", "ipc", "cgroup", "time"};
    for (int i = 0; i < 8; i++) {
        char path[64];
        struct info info = {0};
        unsigned long id = 0;
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        int fd = open(path, O_RDONLY);
        printf("%s:", names[i]);
        show("user", ioctl(fd, _IO(0xb7, 1)));
        show("parent", ioctl(fd, _IO(0xb7, 2)));
        show("owner", ioctl(fd, _IO(0xb7, 4), &id));
        show("id", ioctl(fd, _IOR(0xb7, 5, unsigned long), &id));
        show("bad", ioctl(fd, _IOR(0xb7, 5, unsigned long), 1));
        show("from", ioctl(fd, _IOR(0xb7, 6, int), getpid()) > 0 ? 1 : -1);
        show("none", ioctl(fd, _IOR(0xb7, 6, int), 999999));
        show("info", ioctl(fd, _IOR(0xb7, 10, struct info), &info));
        printf(" %u %d %d", info.size, info.mounts > 0, info.id != 0 && info.id == id);
        show("no struct", ioctl(fd, _IOR(0xb7, 10, struct info), 0));
        show("other", ioctl(fd, _IO(0xb7, 0x30)));
        puts("");
    }
    fflush(stdout);
    traced();
    return 0;
}
