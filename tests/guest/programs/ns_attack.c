/* Rights over other users' objects that a user namespace must not give: the classic attempts. */
#include "event_show.h"
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>

static long put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        return -1;
    long n = write(fd, text, strlen(text));
    int error = errno;
    close(fd);
    errno = error;
    return n;
}

static void become_root(void)
{
    put("/proc/self/setgroups", "deny");
    put("/proc/self/gid_map", "0 1234 1");
    put("/proc/self/uid_map", "0 1234 1");
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    umask(0);
    chmod(".", 0777);
    close(open("secret", O_CREAT | O_WRONLY, 0600));
    close(open("group", O_CREAT | O_WRONLY, 0604));
    chown("group", 0, 1235); /* members of 1235 may not read it: dropping the group must stay impossible */
    close(open("shared", O_CREAT | O_WRONLY, 0666));
    gid_t groups[] = {1235};
    setgroups(1, groups);
    int victim_ready[2], victim_stop[2];
    pipe(victim_ready);
    pipe(victim_stop);
    pid_t victim = fork(); /* of root */
    char c;
    if (victim == 0) {
        write(victim_ready[1], "x", 1);
        read(victim_stop[0], &c, 1);
        _exit(0);
    }
    read(victim_ready[0], &c, 1);
    setgid(1234);
    setuid(1234);
    prctl(PR_SET_DUMPABLE, 1);
    pid_t peer = fork(); /* of the same user, outside the namespace */
    if (peer == 0) {
        write(victim_ready[1], "x", 1);
        read(victim_stop[0], &c, 1);
        _exit(0);
    }
    read(victim_ready[0], &c, 1);
    int outer_mnt = open("/proc/self/ns/mnt", O_RDONLY), outer_uts = open("/proc/self/ns/uts", O_RDONLY);
    SHOW(open("group", O_RDONLY));
    pid_t child = fork();
    if (child == 0) {
        unshare(CLONE_NEWUSER | CLONE_NEWNS);
        /* a group that denies cannot be dropped */
        SHOW(put("/proc/self/gid_map", "0 1234 1"));
        SHOW(setgroups(0, NULL));
        become_root();
        SHOW(setgroups(0, NULL));
        SHOW(open("group", O_RDONLY));
        /* files of others */
        SHOW(open("secret", O_RDWR));
        SHOW(chown("secret", 0, 0));
        SHOW(chmod("secret", 0666));
        SHOW(truncate("secret", 0));
        SHOW(setxattr("shared", "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, 0));
        SHOW(setxattr("shared", "trusted.x", "1", 1, 0));
        SHOW(setxattr("shared", "security.x", "1", 1, 0));
        /* processes of others */
        SHOW(kill(victim, 0));
        SHOW(kill(1, SIGKILL));
        SHOW(ptrace(PTRACE_ATTACH, victim, 0, 0));
        SHOW(ptrace(PTRACE_SEIZE, victim, 0, 0));
        SHOW(ptrace(PTRACE_SEIZE, peer, 0, 0));
        struct iovec local = {&c, 1}, remote = {&c, 1};
        SHOW(process_vm_readv(victim, &local, 1, &remote, 1, 0));
        SHOW(process_vm_readv(peer, &local, 1, &remote, 1, 0));
        struct rlimit limit;
        SHOW(syscall(SYS_prlimit64, victim, RLIMIT_CORE, NULL, &limit));
        SHOW(syscall(SYS_kcmp, getpid(), victim, 0, 0, 0));
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/environ", victim);
        SHOW(open(path, O_RDONLY));
        snprintf(path, sizeof path, "/proc/%d/mem", peer);
        SHOW(open(path, O_RDWR));
        snprintf(path, sizeof path, "/proc/%d/root/secret", victim);
        SHOW(open(path, O_RDONLY));
        snprintf(path, sizeof path, "/proc/%d/uid_map", victim);
        SHOW(put(path, "0 0 1"));
        SHOW(setpriority(PRIO_PROCESS, victim, 19));
        int pidfd = syscall(SYS_pidfd_open, victim, 0);
        SHOW(syscall(SYS_pidfd_getfd, pidfd, 0, 0));
        SHOW(setns(pidfd, CLONE_NEWUSER));
        /* the outer namespaces */
        SHOW(setns(outer_mnt, 0));
        SHOW(setns(outer_uts, 0));
        SHOW(sethostname("owned", 5));
        SHOW(put("/proc/sys/kernel/hostname", "owned"));
        SHOW(mount("none", "/", "tmpfs", MS_REMOUNT, NULL));
        SHOW(syscall(SYS_reboot, 0, 0, 0, 0));
        SHOW(swapon("/nothing", 0));
        SHOW(acct("/nothing"));
        SHOW(socket(AF_INET, SOCK_RAW, 1));
        SHOW(mlockall(0x40));
        struct rlimit more = {1 << 20, 1 << 20};
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_max += 1;
        SHOW(setrlimit(RLIMIT_NOFILE, &limit));
        SHOW(put("/proc/self/oom_score_adj", "-1000"));
        SHOW(nice(-10));
        SHOW(open("/dev/kmsg", O_WRONLY) < 0);
        /* other users' credentials */
        int pair[2], one = 1;
        socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
        struct ucred u = {getpid(), 1, 0};
        char control[CMSG_SPACE(sizeof u)] = {0};
        struct iovec iov = {&c, 1};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_CREDENTIALS;
        h->cmsg_len = CMSG_LEN(sizeof u);
        memcpy(CMSG_DATA(h), &u, sizeof u);
        SHOW(sendmsg(pair[0], &m, 0));
        u.uid = 0;
        u.pid = victim;
        memcpy(CMSG_DATA(h), &u, sizeof u);
        SHOW(sendmsg(pair[0], &m, 0));
        _exit(0);
    }
    waitpid(child, NULL, 0);
    /* A file that root of a namespace has prepared gives no rights outside. */
    child = fork();
    if (child == 0) {
        int mine = open("mine", O_CREAT | O_RDWR, 0755);
        if (fork() == 0) {
            unshare(CLONE_NEWUSER);
            become_root();
            static const char v2[20] = {1, 0, 0, 2, (char)0xff, (char)0xff};
            SHOW(fsetxattr(mine, "security.capability", v2, 20, 0));
            char value[32];
            long n = fgetxattr(mine, "security.capability", value, sizeof value);
            printf("inside: %ld revision %d\n", n, value[3]);
            SHOW(fchmod(mine, 04755));
            _exit(0);
        }
        wait(NULL);
        unsigned char value[32];
        long n = fgetxattr(mine, "security.capability", value, sizeof value);
        printf("outside: %ld revision %d root %d\n", n, value[3], value[20] | value[21] << 8);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    write(victim_stop[1], "xx", 2);
    unlink("mine");
    return 0;
}
