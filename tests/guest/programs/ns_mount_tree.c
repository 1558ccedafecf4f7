/* Mounts as a user namespace's root may make them: detached trees, stacks, marks, changes that can be waited for. */
#include "event_show.h"
#include <linux/mount.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#ifndef MNT_DETACH
#define MNT_FORCE 1
#define MNT_DETACH 2
#define MNT_EXPIRE 4
#define UMOUNT_NOFOLLOW 8
#endif
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
static void put(const char *path, const char *text) { int fd = open(path, O_WRONLY); write(fd, text, strlen(text)); close(fd); }
static int move(int from, const char *fp, int to, const char *tp, int flags) { return syscall(SYS_move_mount, from, fp, to, tp, flags); }
static int tree(int d, const char *p, unsigned flags) { return syscall(SYS_open_tree, d, p, flags); }
static int fsconf(int fd, int cmd, const char *k, const void *v, int aux) { return syscall(SYS_fsconfig, fd, cmd, k, v, aux); }
static int tmp(unsigned attr) { int f = syscall(SYS_fsopen, "tmpfs", 0); fsconf(f, FSCONFIG_CMD_CREATE, 0, 0, 0); int m = syscall(SYS_fsmount, f, 0, attr); close(f); return m; }
static void file(const char *p) { int fd = open(p, O_CREAT | O_RDWR, 0700); write(fd, "hello", 5); close(fd); }
static void here(const char *w, const char *p) { printf("%s: %s %s\n", w, p, access(p, F_OK) ? strerrorname_np(errno) : "there"); }
static int lines(const char *p) { char b[65536]; int fd = open(p, O_RDONLY), n, c = 0; while ((n = read(fd, b, sizeof b)) > 0) for (int i = 0; i < n; i++) c += b[i] == '\n'; close(fd); return c; }
static void flags(const char *p) { struct statfs s; if (statfs(p, &s)) { printf("%s: %s\n", p, strerrorname_np(errno)); return; } printf("%s:%s%s%s%s%s%s%s\n", p, s.f_flags & 1 ? " ro" : " rw", s.f_flags & 2 ? " nosuid" : "", s.f_flags & 4 ? " nodev" : "", s.f_flags & 8 ? " noexec" : "", s.f_flags & 1024 ? " noatime" : "", s.f_flags & 2048 ? " nodiratime" : "", s.f_flags & 4096 ? " relatime" : ""); }
/* The values that fsconfig accepts, before anything is made. */
static void options(void) {
    static const char *kinds[] = {"proc", "devpts", "mqueue", "ramfs", "cgroup2", "tmpfs"};
    static const char *known[][2] = {{"mode", "600"}, {"mode", "9"}, {"mode", 0}, {"uid", "x"}, {"gid", "0"}, {"hidepid", "1"}, {"hidepid", "9"}, {"hidepid", "invisible"}, {"subset", "pid"}, {"subset", "x"},
        {"newinstance", 0}, {"newinstance", "1"}, {"ptmxmode", "0666"}, {"ptmxmode", "9"}, {"max", "5"}, {"max", "x"}, {"max", "99999999"}, {"nsdelegate", 0}, {"favordynmods", 0}, {"bad", 0}, {"bad", "1"}, {"size", "1"},
        {"sync", 0}, {"silent", 0}, {"rw", 0}, {"ro", "1"}, {"source", "a"}, {"nosuid", 0}, {"dirsync", 0}, {"lazytime", 0}, {"mand", 0}, {"async", 0}, {"nolazytime", 0}, {"loud", 0}};
    for (int k = 0; k < 6; k++) {
        printf("%s:", kinds[k]);
        for (unsigned i = 0; i < sizeof known / sizeof *known; i++) {
            int f = syscall(SYS_fsopen, kinds[k], 0);
            printf(" %s", fsconf(f, known[i][1] ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, known[i][0], known[i][1], 0) ? strerrorname_np(errno) : "0");
            close(f);
        }
        printf("\n");
    }
}

/* Limits of tmpfs: 0 means none, and a file system without a limit cannot get one. */
static void limits(void) {
    static const char *first[] = {"size=0", "nr_inodes=0", "size=64k,nr_inodes=10", "nr_blocks=0"};
    static const char *later[] = {"size=0", "nr_inodes=0", "size=1m", "nr_inodes=100", "size=4k", "nr_inodes=1", "size=1m,nr_inodes=50", "bad=1", "size=9x"};
    for (int i = 0; i < 4; i++) {
        SHOW(mount("none", "b", "tmpfs", 0, first[i]));
        int fd = open("b/file", O_CREAT | O_WRONLY, 0600);
        char page[9000] = {1};
        write(fd, page, sizeof page);
        close(fd);
        for (int j = -1; j < 9; j++) {
            struct statfs sf;
            if (j >= 0) printf("%s %s", later[j], mount("none", "b", "tmpfs", MS_REMOUNT, later[j]) ? strerrorname_np(errno) : "0");
            statfs("b", &sf);
            printf(" %d %d\n", sf.f_blocks > 10000 ? -1 : (int)sf.f_blocks, sf.f_files > 10000 ? -1 : (int)sf.f_files);
        }
        umount2("b", 0);
    }
}

/* A tree that was not attached is dissolved when its descriptor is closed, even if a process is in it. */
static void dissolved(void) {
    int m = tmp(0);
    mkdirat(m, "sub", 0700);
    int d = openat(m, "sub", O_DIRECTORY | O_RDONLY), again = dup(m);
    close(m);
    int copy = syscall(SYS_open_tree, d, "", AT_EMPTY_PATH | OPEN_TREE_CLONE);
    SHOW(copy >= 0);
    close(copy);
    close(again);
    SHOW(mkdirat(d, "y", 0700));
    SHOW(openat(d, "../sub/y", O_DIRECTORY) >= 0);
    SHOW(syscall(SYS_open_tree, d, "", AT_EMPTY_PATH | OPEN_TREE_CLONE));
    SHOW(syscall(SYS_move_mount, d, "", -100, "b", MOVE_MOUNT_F_EMPTY_PATH));
    close(d);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0); umask(022);
    char map[40]; unsigned uid = getuid(), gid = getgid();
    SHOW(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    put("/proc/self/setgroups", "deny"); sprintf(map, "0 %u 1", gid); put("/proc/self/gid_map", map); sprintf(map, "0 %u 1", uid); put("/proc/self/uid_map", map);
    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL); /* what others mount outside must not come here: it counts mounts */
    mkdir("w", 0755); SHOW(mount("none", "w", "tmpfs", 0, NULL)); SHOW(mount("none", "w", NULL, MS_PRIVATE, NULL)); chdir("w");
    mkdir("a", 0755); mkdir("b", 0755); mkdir("c", 0755); mkdir("d", 0755);
    int home = open(".", O_RDONLY | O_DIRECTORY);
    printf("-- stacks\n");
    SHOW(mount("one", "a", "tmpfs", 0, NULL)); file("a/one"); SHOW(mount("two", "a", "tmpfs", 0, NULL)); file("a/two"); SHOW(mount("three", "a", "tmpfs", 0, NULL)); file("a/three");
    here("top", "a/three"); SHOW(umount2("a", MNT_DETACH)); here("next", "a/two"); 
    chdir("a"); SHOW(mount("four", ".", "tmpfs", 0, NULL)); here("cwd", "two"); here("cwd", "four"); here("by name", "../a/two"); SHOW(umount2(".", 0)); SHOW(umount2(".", MNT_DETACH)); here("cwd", "two"); fchdir(home); here("now", "a/two"); here("now", "a/one"); printf("%d\n", lines("/proc/self/mounts") == lines("/proc/self/mountinfo"));
    SHOW(umount2("a", MNT_DETACH)); here("now", "a/one"); SHOW(umount2("a", 0)); SHOW(umount2("a", 0)); SHOW(umount2("a", 16)); SHOW(umount2("a/", 0)); SHOW(umount2("zzz", 0)); SHOW(umount2("zzz", 64)); SHOW(umount2("a", MNT_EXPIRE | MNT_DETACH)); SHOW(umount2("a", MNT_EXPIRE | MNT_FORCE)); symlink("a", "l");
    SHOW(mount("x", "l", "tmpfs", 0, NULL)); SHOW(umount2("l", UMOUNT_NOFOLLOW)); SHOW(umount2("l", 0));
    printf("-- expire\n");
    SHOW(mount("x", "a", "tmpfs", 0, NULL)); SHOW(umount2("a", MNT_EXPIRE)); SHOW(umount2("a", MNT_EXPIRE)); here("gone", "a/x");
    SHOW(mount("x", "a", "tmpfs", 0, NULL)); file("a/x"); SHOW(umount2("a", MNT_EXPIRE)); here("use", "a/x"); SHOW(umount2("a", MNT_EXPIRE)); SHOW(umount2("a", MNT_EXPIRE));
    SHOW(mount("x", "a", "tmpfs", 0, NULL)); file("a/x"); SHOW(umount2("a", MNT_EXPIRE)); int fd = open("a/x", O_RDONLY); SHOW(umount2("a", MNT_EXPIRE)); close(fd); SHOW(umount2("a", MNT_EXPIRE)); SHOW(umount2("a", MNT_EXPIRE)); 
    SHOW(mount("x", "a", "tmpfs", 0, NULL)); SHOW(umount2("a", MNT_EXPIRE)); struct stat st; SHOW(stat("a", &st)); SHOW(umount2("a", MNT_EXPIRE)); SHOW(umount2("a", 0)); 
    SHOW(mount("x", "a", "tmpfs", 0, NULL)); mkdir("a/s", 0755); SHOW(umount2("a", MNT_EXPIRE)); SHOW(mount("y", "a/s", "tmpfs", 0, NULL)); SHOW(umount2("a", MNT_EXPIRE)); SHOW(umount2("a/s", MNT_EXPIRE)); SHOW(umount2("a/s", MNT_EXPIRE)); SHOW(umount2("a", MNT_DETACH));
    printf("-- detached\n");
    int t = tmp(0); SHOW(t >= 0); SHOW(mkdirat(t, "in", 0755)); SHOW(move(t, "", home, "a", MOVE_MOUNT_F_EMPTY_PATH)); here("moved", "a/in"); SHOW(move(t, "", home, "b", MOVE_MOUNT_F_EMPTY_PATH)); here("again", "a/in"); here("again", "b/in"); SHOW(move(t, "", home, "b/in", MOVE_MOUNT_F_EMPTY_PATH)); SHOW(umount2("b", MNT_DETACH)); SHOW(move(t, "", home, "a", MOVE_MOUNT_F_EMPTY_PATH)); SHOW(mkdirat(t, "after", 0755)); close(t);
    t = tmp(0); mkdirat(t, "in", 0755); SHOW(move(t, "in", home, "a", 0)); SHOW(move(t, "", t, "in", MOVE_MOUNT_F_EMPTY_PATH)); int t2 = tmp(0); mkdirat(t2, "deep", 0755); SHOW(move(t2, "", t, "in", MOVE_MOUNT_F_EMPTY_PATH)); SHOW(faccessat(t, "in/deep", F_OK, 0)); SHOW(move(t, "", home, "a", MOVE_MOUNT_F_EMPTY_PATH)); here("both", "a/in/deep"); SHOW(umount2("a/in", 0)); SHOW(umount2("a", MNT_DETACH)); close(t); close(t2);
    t = tmp(0); SHOW(mkdirat(t, "x", 0700)); close(t);
    SHOW(mount("x", "a", "tmpfs", 0, NULL)); mkdir("a/s", 0755); SHOW(mount("y", "a/s", "tmpfs", 0, NULL)); file("a/s/f");
    int c = tree(AT_FDCWD, "a", OPEN_TREE_CLONE); SHOW(c >= 0); SHOW(faccessat(c, "s/f", F_OK, 0)); SHOW(faccessat(c, "s", F_OK, 0)); int r = tree(AT_FDCWD, "a", OPEN_TREE_CLONE | AT_RECURSIVE); SHOW(faccessat(r, "s/f", F_OK, 0)); SHOW(move(r, "", home, "b", MOVE_MOUNT_F_EMPTY_PATH)); here("copy", "b/s/f"); SHOW(move(r, "", home, "c", MOVE_MOUNT_F_EMPTY_PATH)); here("moved", "c/s/f"); SHOW(umount2("c/s", 0)); SHOW(umount2("c", MNT_DETACH)); here("original", "a/s/f"); SHOW(move(c, "", home, "b", 0)); SHOW(move(c, "", home, "b", MOVE_MOUNT_F_EMPTY_PATH)); here("b", "b/s"); SHOW(umount2("b", 0)); SHOW(close(c)); SHOW(umount2("b", 0)); close(r);
    int p = tree(AT_FDCWD, "a", 0); SHOW(move(p, "", home, "b", MOVE_MOUNT_F_EMPTY_PATH)); here("plain", "b/s/f"); here("plain", "a/s"); SHOW(move(AT_FDCWD, "b", AT_FDCWD, "a", 0)); here("back", "a/s/f"); SHOW(move(AT_FDCWD, "a", AT_FDCWD, "a/s", 0)); SHOW(move(AT_FDCWD, "d", AT_FDCWD, "b", 0)); SHOW(move(AT_FDCWD, "a", AT_FDCWD, "b", 0x1000)); SHOW(move(AT_FDCWD, "zz", AT_FDCWD, "b", 0)); SHOW(move(AT_FDCWD, "a", AT_FDCWD, "zz", 0)); SHOW(move(AT_FDCWD, "zz", AT_FDCWD, "zz", 0x1000)); SHOW(move(AT_FDCWD, "", AT_FDCWD, "b", 0)); SHOW(move(AT_FDCWD, "a", AT_FDCWD, "b", MOVE_MOUNT_SET_GROUP)); SHOW(move(AT_FDCWD, "a", AT_FDCWD, "b", MOVE_MOUNT_BENEATH)); SHOW(move(99, "", AT_FDCWD, "b", MOVE_MOUNT_F_EMPTY_PATH)); close(p);
    file("b/f"); SHOW(move(AT_FDCWD, "a", AT_FDCWD, "b/f", 0)); c = tree(AT_FDCWD, "b/f", OPEN_TREE_CLONE); SHOW(move(c, "", home, "b", MOVE_MOUNT_F_EMPTY_PATH)); SHOW(move(c, "", home, "b/f", MOVE_MOUNT_F_EMPTY_PATH)); SHOW(umount2("b/f", MNT_DETACH)); close(c);
    SHOW(tree(AT_FDCWD, "a", AT_RECURSIVE)); SHOW(tree(AT_FDCWD, "a", 0x40)); SHOW(tree(AT_FDCWD, "zz", OPEN_TREE_CLONE)); SHOW(tree(AT_FDCWD, "", OPEN_TREE_CLONE)); t = tmp(0); c = tree(t, "", OPEN_TREE_CLONE | AT_EMPTY_PATH); SHOW(c >= 0); SHOW(mkdirat(c, "q", 0755)); close(c); close(t);
    printf("-- noexec\n");
    SHOW(mount("x", "d", "tmpfs", MS_NOEXEC, NULL)); file("d/f"); fd = open("d/f", O_RDWR); char *m;
    SHOW(mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -1 : 0); SHOW(mmap(0, 4096, PROT_EXEC, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0); m = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0); SHOW(mprotect(m, 4096, PROT_READ | PROT_EXEC)); SHOW(mprotect(m, 4096, PROT_EXEC)); SHOW(mprotect(m, 4096, PROT_READ | PROT_WRITE)); m = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0); SHOW(mprotect(m, 4096, PROT_READ | PROT_EXEC)); SHOW(mount(NULL, "d", NULL, MS_REMOUNT | MS_BIND, NULL)); SHOW(mprotect(m, 4096, PROT_READ | PROT_EXEC)); m = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0); SHOW(mprotect(m, 4096, PROT_READ | PROT_EXEC)); SHOW(mount(NULL, "d", NULL, MS_REMOUNT | MS_BIND | MS_NOEXEC, NULL)); SHOW(mprotect(m, 4096, PROT_READ)); SHOW(mprotect(m, 4096, PROT_READ | PROT_EXEC)); SHOW(syscall(SYS_execveat, fd, "", NULL, NULL, AT_EMPTY_PATH)); SHOW(execl("d/f", "f", NULL)); SHOW(access("d/f", X_OK)); close(fd); SHOW(umount2("d", MNT_DETACH));
    printf("-- poll\n");
    const char *names[] = {"/proc/self/mounts", "/proc/self/mountinfo", "/proc/self/mountstats"}; int pf[3], ep = epoll_create1(0); for (int i = 0; i < 3; i++) { pf[i] = open(names[i], O_RDONLY); struct epoll_event e = {EPOLLIN | EPOLLPRI | EPOLLOUT, {i}}; SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, pf[i], &e)); }
#define POLLS(w) do { for (int i = 0; i < 3; i++) { struct pollfd q = {pf[i], POLLIN | POLLPRI | POLLOUT}; int n = poll(&q, 1, 0); printf("%s %d: %d %x; ", w, i, n, q.revents); } printf("\n"); } while (0)
    POLLS("first"); POLLS("again"); SHOW(mount("x", "d", "tmpfs", 0, NULL)); { struct epoll_event e[4]; int n = epoll_wait(ep, e, 4, 0); printf("epoll %d\n", n); } POLLS("mounted"); POLLS("again"); char b[100]; for (int i = 0; i < 3; i++) { lseek(pf[i], 0, SEEK_SET); read(pf[i], b, 100); } POLLS("read"); SHOW(mount(NULL, "d", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL)); POLLS("remounted"); SHOW(mount(NULL, "d", NULL, MS_SHARED, NULL)); POLLS("shared"); struct mount_attr at = {.attr_set = MOUNT_ATTR_NOSUID}; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "d", 0, &at, sizeof at)); POLLS("setattr"); SHOW(umount2("d", 0)); POLLS("unmounted"); t = tmp(0); POLLS("detached"); close(t); POLLS("closed"); SHOW(mount("a", "b", NULL, MS_BIND, NULL)); POLLS("bound"); SHOW(move(AT_FDCWD, "b", AT_FDCWD, "c", 0)); POLLS("moved"); SHOW(umount2("c", MNT_DETACH)); POLLS("detached"); 
    { pid_t k = fork(); if (!k) { usleep(20000); mount("x", "d", "tmpfs", 0, NULL); _exit(0); } struct pollfd q = {pf[0], POLLPRI}; int n = poll(&q, 1, 5000); printf("waited %d %x\n", n, q.revents); waitpid(k, 0, 0); umount2("d", 0); POLLS("after"); }
    printf("-- setattr\n");
    struct mount_attr s1 = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC}; mkdir("a/s/u", 0755); c = tree(AT_FDCWD, "a", OPEN_TREE_CLONE | AT_RECURSIVE); SHOW(syscall(SYS_mount_setattr, c, "", AT_EMPTY_PATH, &s1, sizeof s1)); SHOW(mkdirat(c, "new", 0755)); SHOW(mkdirat(c, "s/new", 0755)); SHOW(syscall(SYS_mount_setattr, c, "", AT_EMPTY_PATH | AT_RECURSIVE, &s1, sizeof s1)); SHOW(mkdirat(c, "s/new2", 0755)); SHOW(syscall(SYS_mount_setattr, c, "s", 0, &s1, sizeof s1)); SHOW(syscall(SYS_mount_setattr, c, "s/u", 0, &s1, sizeof s1)); SHOW(move(c, "", home, "b", MOVE_MOUNT_F_EMPTY_PATH)); flags("b"); flags("b/s"); flags("a"); flags("a/s");
    struct mount_attr s2 = {.attr_clr = MOUNT_ATTR_RDONLY}; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", AT_RECURSIVE, &s2, sizeof s2)); flags("b/s"); struct mount_attr s3 = {.attr_set = MOUNT_ATTR_NOATIME, .attr_clr = MOUNT_ATTR__ATIME}; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &s3, sizeof s3)); flags("b"); s3.attr_clr = 0; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &s3, sizeof s3)); s3.attr_set = 0x30; s3.attr_clr = MOUNT_ATTR__ATIME; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &s3, sizeof s3)); s3.attr_set = 0; s3.attr_clr = 0x10; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &s3, sizeof s3));
    s3.attr_set = 0; s3.attr_clr = MOUNT_ATTR__ATIME; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &s3, sizeof s3)); flags("b"); s3.attr_set = 0x400000; s3.attr_clr = 0; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &s3, sizeof s3)); s3.attr_set = 0; s3.attr_clr = 0x400000; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &s3, sizeof s3)); s3 = (struct mount_attr){.propagation = 5}; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &s3, sizeof s3)); s3.propagation = MS_SHARED | MS_PRIVATE; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &s3, sizeof s3)); s3.propagation = MS_PRIVATE; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", AT_RECURSIVE, &s3, sizeof s3)); SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b/s/u", 0, &s3, sizeof s3)); SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0x40, &s3, sizeof s3)); SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &s3, 8)); SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &s3, 8000)); SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "zz", 0, &s3, 32)); s3 = (struct mount_attr){}; SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "zz", 0, &s3, 32)); 
    for (int i = 0; i < 6; i++) { int uns = i == 1 ? open("/proc/self/ns/user", O_RDONLY) : i == 2 ? open("/proc/self/ns/mnt", O_RDONLY) : i == 3 ? 99 : i == 4 ? -1 : i == 5 ? home : open("/proc/1/ns/user", O_RDONLY); struct mount_attr id = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = uns}; printf("idmap %d: ", i); SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &id, sizeof id)); int dt = tree(AT_FDCWD, "a", OPEN_TREE_CLONE); if (i) SHOW(syscall(SYS_mount_setattr, dt, "", AT_EMPTY_PATH, &id, sizeof id)); close(dt); id.attr_set = 0; id.attr_clr = MOUNT_ATTR_IDMAP; if (i == 1) SHOW(syscall(SYS_mount_setattr, AT_FDCWD, "b", 0, &id, sizeof id)); }
    SHOW(umount2("b", MNT_DETACH)); close(c);
    printf("-- fspick\n");
    SHOW(mount("x", "b", "tmpfs", 0, "size=1m")); int f = syscall(SYS_fspick, AT_FDCWD, "b", 0); SHOW(f >= 0); SHOW(fsconf(f, FSCONFIG_CMD_CREATE, 0, 0, 0)); SHOW(fsconf(f, FSCONFIG_SET_STRING, "size", "2m", 0)); SHOW(fsconf(f, FSCONFIG_SET_FLAG, "ro", 0, 0)); flags("b"); struct statfs sf; SHOW(fsconf(f, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0)); flags("b"); statfs("b", &sf); printf("%ld\n", (long)(sf.f_blocks * sf.f_bsize)); SHOW(mkdir("b/x", 0755)); SHOW(fsconf(f, FSCONFIG_SET_FLAG, "rw", 0, 0)); SHOW(fsconf(f, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0)); SHOW(mkdir("b/x", 0755)); SHOW(fsconf(f, FSCONFIG_SET_STRING, "nonsense", "2m", 0)); SHOW(fsconf(f, FSCONFIG_SET_FLAG, "nonsense", 0, 0)); SHOW(fsconf(f, FSCONFIG_SET_STRING, "size", "zz", 0)); SHOW(fsconf(f, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0)); SHOW(syscall(SYS_fsmount, f, 0, 0)); SHOW(fsconf(f, FSCONFIG_SET_STRING, "source", "new", 0)); SHOW(fsconf(f, FSCONFIG_CMD_RECONFIGURE, 0, "x", 0)); SHOW(fsconf(f, 99, 0, 0, 0)); close(f);
    SHOW(syscall(SYS_fspick, AT_FDCWD, "b/x", 0)); SHOW(syscall(SYS_fspick, AT_FDCWD, "zz", 0)); SHOW(syscall(SYS_fspick, AT_FDCWD, "b", 0x10)); SHOW(syscall(SYS_fspick, AT_FDCWD, "", 0)); fd = open("b", O_PATH); f = syscall(SYS_fspick, fd, "", FSPICK_EMPTY_PATH); SHOW(f >= 0); SHOW(fsconf(f, FSCONFIG_SET_STRING, "size", "3m", 0)); SHOW(fsconf(f, FSCONFIG_SET_STRING, "size", "4m", 0)); SHOW(fsconf(f, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0)); statfs("b", &sf); printf("%ld\n", (long)(sf.f_blocks * sf.f_bsize)); SHOW(fsconf(f, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0)); close(f); close(fd); SHOW(umount2("b", 0));
    options();
    limits();
    dissolved();
    f = syscall(SYS_fsopen, "tmpfs", 0); SHOW(fsconf(f, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0)); SHOW(syscall(SYS_fsmount, f, 0, 0)); SHOW(fsconf(f, FSCONFIG_SET_FLAG, "nonsense", 0, 0)); SHOW(fsconf(f, FSCONFIG_SET_STRING, "mode", "0700", 0)); SHOW(fsconf(f, FSCONFIG_SET_FLAG, "size", 0, 0)); SHOW(fsconf(f, FSCONFIG_CMD_CREATE, 0, 0, 0)); SHOW(fsconf(f, FSCONFIG_CMD_CREATE, 0, 0, 0)); SHOW(fsconf(f, FSCONFIG_SET_FLAG, "ro", 0, 0)); SHOW(syscall(SYS_fsmount, f, 2, 0)); SHOW(syscall(SYS_fsmount, f, 0, 0x100000)); t = syscall(SYS_fsmount, f, 0, MOUNT_ATTR_NOSUID); SHOW(t >= 0); SHOW(syscall(SYS_fsmount, f, 0, 0)); SHOW(fsconf(f, FSCONFIG_SET_STRING, "size", "1m", 0)); SHOW(fsconf(f, FSCONFIG_CMD_RECONFIGURE, 0, 0, 0)); SHOW(move(t, "", home, "b", MOVE_MOUNT_F_EMPTY_PATH)); flags("b"); statfs("b", &sf); printf("%d\n", sf.f_blocks * sf.f_bsize == 1 << 20); close(f); close(t); SHOW(umount2("b", 0)); SHOW(syscall(SYS_fsopen, "nonsense", 0)); SHOW(syscall(SYS_fsopen, "tmpfs", 2)); SHOW(syscall(SYS_fsmount, home, 0, 0)); SHOW(syscall(SYS_fsmount, 99, 0, 0));
    printf("-- directories\n"); SHOW(open("a", O_RDONLY | O_DIRECTORY | O_DIRECT)); SHOW(open("a", O_RDONLY | O_DIRECT)); SHOW(fcntl(home, F_SETFL, O_DIRECT)); fd = open("a", O_PATH | O_DIRECT); SHOW(fd >= 0); SHOW(open("/proc", O_RDONLY | O_DIRECT)); SHOW(open("/dev", O_RDONLY | O_DIRECT)); SHOW(open("/usr", O_RDONLY | O_DIRECT)); SHOW(open("/proc/self/stat", O_RDONLY | O_DIRECT));
    printf("-- lists\n");
    struct { unsigned size, spare; unsigned long long id, param; } q = {24, 0, ~0ULL, 0};
    unsigned long long ids[500];
    SHOW(umount2("a/s", 0)); SHOW(umount2("a", 0));
    int n = syscall(SYS_listmount, &q, ids, 500, 0);
    printf("all %d\n", n == lines("/proc/self/mountinfo"));
    struct statx x; statx(AT_FDCWD, "/", 0, 0x4000, &x);
    int has_root = 0; for (int i = 0; i < n; i++) has_root |= ids[i] == x.stx_mnt_id;
    printf("root %d\n", has_root);
    q.id = x.stx_mnt_id; printf("below the root %d\n", syscall(SYS_listmount, &q, ids, 500, 0) - n);
    q.id = ~0ULL; q.param = ids[0]; printf("after the first %d\n", (int)syscall(SYS_listmount, &q, ids, 500, 0) - n);
    q.param = 0; SHOW(syscall(SYS_listmount, &q, ids, 500, 2)); SHOW(syscall(SYS_listmount, &q, ids, 2, 1)); SHOW(syscall(SYS_listmount, &q, ids, 0, 0)); SHOW(syscall(SYS_listmount, &q, (void *)8, 5, 0)); q.size = 8; SHOW(syscall(SYS_listmount, &q, ids, 500, 0));
    q.size = 24; q.id = ~0ULL; q.param = 2; SHOW(syscall(457, &q, ids, sizeof ids, 0));
    return 0;
}
