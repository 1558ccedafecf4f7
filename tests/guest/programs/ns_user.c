/* User namespaces of an unprivileged user: maps, ids, capabilities, nesting. */
#include "event_show.h"
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <grp.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

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

static void show_file(const char *path)
{
    char text[512];
    int fd = open(path, O_RDONLY);
    long n = read(fd, text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    close(fd);
    printf("%s: %s", path, text);
}

static void show_ids(const char *when)
{
    uid_t r, e, s;
    gid_t rg, eg, sg;
    getresuid(&r, &e, &s);
    getresgid(&rg, &eg, &sg);
    printf("%s: uid %u %u %u gid %u %u %u\n", when, r, e, s, rg, eg, sg);
}

static void show_caps(void)
{
    char line[200];
    FILE *f = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "Cap", 3) || !strncmp(line, "Uid", 3) || !strncmp(line, "Groups", 6))
            fputs(line, stdout);
    fclose(f);
}

/* In a child, so that each case begins anew. */
#define CASE(name)                                                                                                     \
    printf("-- " name "\n");                                                                                           \
    if (fork() == 0)                                                                                                   \
        for (;; _exit(0))

static void done(void) { wait(NULL); }

static void unmapped(void)
{
    SHOW(unshare(CLONE_NEWUSER));
    show_ids("unmapped");
    show_file("/proc/self/uid_map");
    show_file("/proc/self/setgroups");
    show_caps();
    struct stat st;
    stat("/", &st);
    printf("/ belongs to %u %u\n", st.st_uid, st.st_gid);
    SHOW(setuid(0));
    SHOW(setuid(1234));
    SHOW(setresuid(-1, -1, -1));
    SHOW(setgroups(0, NULL));
    SHOW(prctl(PR_GET_SECUREBITS));
    SHOW(unshare(CLONE_NEWUSER));
    SHOW(unshare(CLONE_NEWUTS));
    SHOW(sethostname("inner", 5));
}

static void rules(void)
{
    unshare(CLONE_NEWUSER);
    SHOW(put("/proc/self/uid_map", "0 0 1"));
    SHOW(put("/proc/self/uid_map", "0 1234 2"));
    SHOW(put("/proc/self/uid_map", "0 1234 0"));
    SHOW(put("/proc/self/uid_map", "0 1234"));
    SHOW(put("/proc/self/uid_map", ""));
    SHOW(put("/proc/self/uid_map", "x 1234 1"));
    SHOW(put("/proc/self/uid_map", "0 1234 1\n0 1235 1"));
    SHOW(put("/proc/self/uid_map", "4294967295 1234 1"));
    SHOW(put("/proc/self/uid_map", "4294967290 1234 10"));
    SHOW(put("/proc/self/uid_map", "0 1235 1"));
    SHOW(put("/proc/self/gid_map", "0 1234 1"));
    SHOW(put("/proc/self/setgroups", "nonsense"));
    SHOW(put("/proc/self/setgroups", "deny"));
    SHOW(put("/proc/self/setgroups", "allow"));
    SHOW(put("/proc/self/gid_map", "5 1234 1"));
    SHOW(put("/proc/self/gid_map", "5 1234 1"));
    SHOW(put("/proc/self/setgroups", "deny"));
    SHOW(put("/proc/self/uid_map", "  7   1234  1 \n"));
    show_file("/proc/self/uid_map");
    show_file("/proc/self/gid_map");
    show_file("/proc/self/setgroups");
    show_ids("mapped");
    SHOW(setgroups(0, NULL));
    SHOW(setuid(0));
    SHOW(setuid(7));
    SHOW(setfsuid(0));
    SHOW(setfsuid(-1));
}

static void as_root(void)
{
    int file = open("mine", O_CREAT | O_RDWR, 0600);
    unshare(CLONE_NEWUSER);
    put("/proc/self/setgroups", "deny");
    put("/proc/self/gid_map", "0 1234 1");
    put("/proc/self/uid_map", "0 1234 1");
    show_ids("root");
    show_caps();
    struct stat st;
    fstat(file, &st);
    printf("mine: %u %u\n", st.st_uid, st.st_gid);
    SHOW(fchown(file, 0, 0));
    SHOW(fchown(file, 1, 0));
    SHOW(fchown(file, 1234, -1));
    SHOW(fchown(file, 65534, -1));
    SHOW(open("secret", O_RDONLY));
    SHOW(chmod("secret", 0666));
    SHOW(chown("secret", 0, 0));
    SHOW(mknod("dev", S_IFCHR | 0666, 0x103));
    SHOW(mknod("fifo", S_IFIFO | 0666, 0));
    SHOW(setuid(0));
    SHOW(setuid(1));
    SHOW(kill(getppid(), 0));
    SHOW(sethostname("x", 1));
    SHOW(syscall(SYS_settimeofday, NULL, NULL));
    SHOW(chroot("/"));
    SHOW(setpriority(PRIO_PROCESS, 0, -5));
    SHOW(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    SHOW(prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN));
    SHOW(prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN));
    if (fork() == 0) {
        show_ids("child");
        SHOW(unshare(CLONE_NEWUSER));
        show_ids("nested");
        show_file("/proc/self/uid_map");
        SHOW(put("/proc/self/uid_map", "3 0 1"));
        show_ids("nested, mapped");
        show_file("/proc/self/uid_map");
        show_file("/proc/1/uid_map");
        _exit(0);
    }
    wait(NULL);
    unlink("mine");
    unlink("fifo");
}

static void deep(void)
{
    int level = 0;
    for (;;) {
        if (unshare(CLONE_NEWUSER))
            break;
        level++;
        put("/proc/self/setgroups", "deny");
        if (put("/proc/self/uid_map", level == 1 ? "0 1234 1" : "0 0 1") < 0 ||
            put("/proc/self/gid_map", level == 1 ? "0 1234 1" : "0 0 1") < 0)
            break;
    }
    printf("level %d %s\n", level, strerrorname_np(errno));
}

static void handles(void)
{
    int first = open("/proc/self/ns/user", O_RDONLY);
    SHOW(ioctl(first, NS_GET_USERNS));
    SHOW(ioctl(first, NS_GET_PARENT));
    SHOW(ioctl(first, NS_GET_NSTYPE) == CLONE_NEWUSER);
    SHOW(setns(first, CLONE_NEWUSER));
    SHOW(unshare(CLONE_NEWUSER | CLONE_NEWUTS));
    int mine = open("/proc/self/ns/user", O_RDONLY), uts = open("/proc/self/ns/uts", O_RDONLY);
    uid_t owner = 77;
    SHOW(ioctl(mine, NS_GET_OWNER_UID, &owner));
    printf("owner %u\n", owner);
    SHOW(ioctl(uts, NS_GET_OWNER_UID, &owner));
    SHOW(ioctl(uts, NS_GET_PARENT));
    SHOW(ioctl(mine, NS_GET_PARENT));
    int of_uts = ioctl(uts, NS_GET_USERNS);
    struct stat a, b;
    fstat(of_uts, &a);
    fstat(mine, &b);
    printf("same %d\n", a.st_ino == b.st_ino);
    SHOW(setns(first, 0));
    SHOW(setns(mine, 0));
}

static void from_outside(void)
{
    int go[2], ready[2];
    char c;
    pipe(go);
    pipe(ready);
    pid_t child = fork();
    if (child == 0) {
        unshare(CLONE_NEWUSER);
        write(ready[1], "x", 1);
        read(go[0], &c, 1);
        show_ids("mapped by the parent");
        SHOW(setgid(10));
        SHOW(setuid(20));
        show_ids("changed");
        _exit(0);
    }
    read(ready[0], &c, 1);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/uid_map", child);
    SHOW(put(path, "0 5000 10\n10 6000 20\n"));
    show_file("/proc/self/uid_map");
    snprintf(path, sizeof path, "/proc/%d/gid_map", child);
    SHOW(put(path, "0 5000 100"));
    write(go[1], "x", 1);
    wait(NULL);
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    umask(0);
    int fd = open("secret", O_CREAT | O_WRONLY, 0600);
    close(fd);
    chmod(".", 0777);
    CASE("by root from outside") { from_outside(); }
    done();
    setgroups(0, NULL);
    setgid(1234);
    if (setuid(1234))
        printf("not root\n");
    prctl(PR_SET_DUMPABLE, 1);
    CASE("unmapped") { unmapped(); }
    done();
    CASE("rules") { rules(); }
    done();
    CASE("root") { as_root(); }
    done();
    CASE("deep") { deep(); }
    done();
    CASE("handles") { handles(); }
    done();
    CASE("from outside, unprivileged") { from_outside(); }
    done();
    return 0;
}
