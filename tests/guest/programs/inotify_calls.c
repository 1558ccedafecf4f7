/* The events of each call for watches of a file and of its directory. */
#include "event_show.h"
#include <dirent.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <sys/file.h>
#include <sched.h>
#include <sys/mount.h>
static int fd;
static void show(const char *what)
{
    char b[8192] __attribute__((aligned(8)));
    int n = read(fd, b, sizeof b), cookie = 0;
    printf("%s:", what);
    static const char *names[] = {"ACCESS", "MODIFY", "ATTRIB", "CLOSE_W", "CLOSE", "OPEN", "FROM", "TO", "CREATE", "DELETE", "DELETE_SELF", "MOVE_SELF", 0, "UNMOUNT", "OVERFLOW", "IGNORED"};
    for (int at = 0; at < n;) {
        struct inotify_event *e = (void *)(b + at);
        printf(" [%d", e->wd);
        for (int i = 0; i < 16; i++) if (e->mask & 1 << i) printf(" %s", names[i] ? names[i] : "?");
        if (e->mask & IN_ISDIR) printf(" dir");
        printf("%s%s%s]", e->len ? " " : "", e->len ? e->name[0] == '#' ? "#" : e->name : "", e->cookie ? " cookie" : "");
        at += sizeof *e + e->len;
    }
    printf(n < 0 ? " none\n" : "\n");
    fflush(stdout);
}
#define DO(call) do { errno = 0; long r_ = (long)(call); char t_[300]; snprintf(t_, sizeof t_, "%s = %s", #call, r_ < 0 ? strerrorname_np(errno) : "ok"); show(t_); } while (0)
static char b[100];
static void fresh(const char *p) { unlink(p); int f = open(p, O_CREAT | O_RDWR, 0755); write(f, "0123456789", 10); close(f); }
static void put(const char *path, const char *text) { int f = open(path, O_WRONLY); write(f, text, strlen(text)); close(f); }
int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    if (argc > 1) return 0;
    signal(SIGPIPE, SIG_IGN);
    fd = inotify_init1(IN_NONBLOCK);
    mkdir("d", 0755); fresh("d/f"); fresh("out");
    int p[2]; pipe(p);
    printf("%d %d\n", inotify_add_watch(fd, "d", IN_ALL_EVENTS), inotify_add_watch(fd, "d/f", IN_ALL_EVENTS));
    int f, o = open("out", O_RDWR), g;
    DO(f = open("d/f", O_RDWR));
    DO(write(f, "x", 1)); DO(pwrite(f, "x", 1, 0)); DO(write(f, "x", 0)); DO(write(f, (void *)8, 5)); struct iovec v = {b, 3}; DO(writev(f, &v, 1)); DO(pwritev(f, &v, 1, 0)); DO(pwritev2(f, &v, 1, 0, 0));
    lseek(f, 0, SEEK_SET); DO(read(f, b, 2)); DO(read(f, b, 0)); DO(pread(f, b, 2, 0)); DO(pread(f, b, 2, 1000)); DO(read(f, (void *)8, 2)); DO(readv(f, &v, 1)); DO(preadv(f, &v, 1, 0)); DO(preadv2(f, &v, 1, 0, 0)); DO(lseek(f, 0, SEEK_SET));
    DO(fallocate(f, 0, 0, 100)); DO(fallocate(f, FALLOC_FL_KEEP_SIZE, 0, 5000)); DO(fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 10)); DO(fallocate(f, 0, 0, 0)); DO(fallocate(f, 0, -1, 5)); DO(fallocate(f, 0x1000, 0, 5)); DO(posix_fallocate(f, 0, 50));
    DO(ftruncate(f, 50)); DO(ftruncate(f, 50)); DO(ftruncate(f, 100)); DO(truncate("d/f", 100)); DO(truncate("d/f", 60)); DO(ftruncate(f, -1));
    off_t z = 0; DO(sendfile(o, f, &z, 10)); z = 0; DO(sendfile(f, o, &z, 5)); z = 0; DO(sendfile(p[1], f, &z, 5)); read(p[0], b, 100); z = 5000; DO(sendfile(o, f, &z, 10)); z = 0; DO(sendfile(o, f, &z, 0));
    z = 0; DO(splice(f, &z, p[1], 0, 10, 0)); z = 0; DO(splice(p[0], 0, f, &z, 10, 0)); z = 5000; DO(splice(f, &z, p[1], 0, 10, 0));
    z = 0; off_t y = 0; DO(copy_file_range(f, &z, o, &y, 10, 0)); z = y = 0; DO(copy_file_range(o, &z, f, &y, 10, 0)); z = 9000; DO(copy_file_range(f, &z, o, &y, 10, 0)); DO(ioctl(o, FICLONE, f));
    char *m = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0); show("mmap"); m[0] = 'z'; show("store"); DO(msync(m, 4096, MS_SYNC)); munmap(m, 4096); DO(fsync(f)); DO(flock(f, LOCK_EX)); DO(flock(f, LOCK_UN)); DO(posix_fadvise(f, 0, 0, POSIX_FADV_DONTNEED)); DO(readahead(f, 0, 100)); DO(ioctl(f, FIONREAD, &g));
    DO(fchmod(f, 0755)); DO(chmod("d/f", 0755)); DO(fchown(f, -1, -1)); DO(chown("d/f", getuid(), getgid())); DO(lchown("d/f", -1, -1)); DO(fchownat(AT_FDCWD, "d/f", -1, -1, 0)); struct timespec ts[2] = {{5, 0}, {6, 0}}, only_m[2] = {{0, UTIME_OMIT}, {7, 0}}, only_a[2] = {{7, 0}, {0, UTIME_OMIT}}, none[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}}; struct timeval tv[2] = {{1, 0}, {2, 0}};
    DO(utimensat(AT_FDCWD, "d/f", ts, 0)); DO(utimensat(AT_FDCWD, "d/f", only_m, 0)); DO(utimensat(AT_FDCWD, "d/f", only_a, 0)); DO(utimensat(AT_FDCWD, "d/f", none, 0)); DO(utimensat(AT_FDCWD, "d/f", NULL, 0)); DO(futimens(f, ts)); DO(utimes("d/f", tv)); DO(futimes(f, tv)); DO(utimensat(AT_FDCWD, "d", ts, 0));
    DO(setxattr("d/f", "user.x", "1", 1, 0)); DO(fsetxattr(f, "user.x", "2", 1, 0)); DO(getxattr("d/f", "user.x", b, 10)); DO(fremovexattr(f, "user.x")); DO(removexattr("d/f", "user.x"));
    struct stat st; DO(stat("d/f", &st)); DO(fstat(f, &st)); DO(access("d/f", R_OK)); DO(g = open("d/f", O_PATH)); DO(close(g)); DO(g = dup(f)); DO(close(g)); DO(close(f));
    DO(f = open("d/f", O_RDONLY)); DO(close(f)); DO(f = open("d/f", O_WRONLY)); DO(close(f)); DO(f = open("d/f", O_RDWR | O_TRUNC)); DO(close(f)); DO(f = open("d/f", O_RDWR | O_CREAT, 0700)); DO(close(f)); DO(f = open("d/f", O_CREAT | O_EXCL)); DO(f = open("d/new", O_CREAT | O_WRONLY, 0700)); DO(close(f)); DO(f = creat("d/new", 0700)); DO(close(f)); DO(f = open("d", O_TMPFILE | O_RDWR, 0600)); DO(write(f, "a", 1)); DO(linkat(AT_FDCWD, (sprintf(b, "/proc/self/fd/%d", f), b), AT_FDCWD, "d/linked", AT_SYMLINK_FOLLOW)); DO(close(f)); DO(unlink("d/linked"));
    DO(f = open("d", O_RDONLY | O_DIRECTORY)); DO(syscall(SYS_getdents64, f, b, 100)); DO(fchdir(f)); DO(fchmod(f, 0755)); DO(close(f)); chdir(".."); DO(chdir("d")); chdir("..");
    DO(link("d/f", "d/second")); DO(unlink("d/second")); DO(link("d/f", "outside")); DO(unlink("outside")); DO(symlink("f", "d/sym")); DO(readlink("d/sym", b, 10)); DO(f = open("d/sym", O_RDONLY)); DO(close(f)); DO(lchown("d/sym", -1, -1)); DO(utimensat(AT_FDCWD, "d/sym", ts, AT_SYMLINK_NOFOLLOW)); DO(unlink("d/sym")); DO(mkdir("d/sub", 0755)); DO(rename("d/sub", "d/sub2")); DO(chmod("d/sub2", 0700)); DO(rmdir("d/sub2")); DO(mkfifo("d/fifo", 0600)); DO(f = open("d/fifo", O_RDWR | O_NONBLOCK)); DO(write(f, "ab", 2)); DO(read(f, b, 2)); DO(close(f)); DO(unlink("d/fifo"));
    int s = socket(AF_UNIX, SOCK_STREAM, 0); struct sockaddr_un a = {AF_UNIX, "d/sock"}; DO(bind(s, (void *)&a, sizeof a)); listen(s, 1); g = socket(AF_UNIX, SOCK_STREAM, 0); DO(connect(g, (void *)&a, sizeof a)); DO(write(g, "x", 1)); DO(close(g)); DO(close(s)); DO(unlink("d/sock"));
    DO(rename("d/f", "d/g")); DO(rename("d/g", "d/f")); DO(rename("d/f", "d/f")); DO(syscall(SYS_renameat2, AT_FDCWD, "d/f", AT_FDCWD, "d/new", 2)); DO(syscall(SYS_renameat2, AT_FDCWD, "d/f", AT_FDCWD, "d/new", 2)); DO(rename("out", "d/out")); DO(rename("d/out", "out")); DO(rename("d/f", "d/zz/f")); DO(rename("d/zz", "d/f"));
    /* programs */
    { f = open("/proc/self/exe", O_RDONLY); g = open("d/prog", O_CREAT | O_WRONLY, 0755); while ((s = read(f, b, sizeof b)) > 0) write(g, b, s); close(f); close(g); show("program"); }
    { pid_t k = fork(); if (!k) { execl("d/prog", "prog", "x", NULL); _exit(9); } int st; waitpid(k, &st, 0); printf("%d ", WEXITSTATUS(st)); show("exec"); }
    { g = open("d/script", O_CREAT | O_WRONLY, 0755); write(g, "#!d/prog x\n", 11); close(g); show("script"); pid_t k = fork(); if (!k) { execl("d/script", "script", NULL); _exit(9); } int st; waitpid(k, &st, 0); printf("%d ", WEXITSTATUS(st)); show("exec of a script"); }
    DO(execl("d", "d", NULL)); DO(execl("d/new", "new", NULL)); { int x = open("d/prog", O_RDONLY | O_CLOEXEC); pid_t k = fork(); if (!k) { char *av[] = {"prog", "x", 0}; syscall(SYS_execveat, x, "", av, NULL, AT_EMPTY_PATH); _exit(9); } waitpid(k, 0, 0); show("execveat"); close(x); show("close"); }
    DO(unlink("d/prog")); DO(unlink("d/script"));
    /* the end of a watched file */
    DO(f = open("d/f", O_RDWR)); DO(unlink("d/f")); DO(write(f, "x", 1)); DO(fchmod(f, 0600)); DO(read(f, b, 1)); DO(ftruncate(f, 0)); DO(close(f)); DO(inotify_rm_watch(fd, 2));
    fresh("d/f"); show("again"); printf("%d\n", inotify_add_watch(fd, "d/f", IN_ALL_EVENTS)); DO(unlink("d/f"));
    fresh("d/f"); show("again"); printf("%d\n", inotify_add_watch(fd, "d/f", IN_ALL_EVENTS | IN_EXCL_UNLINK)); link("d/f", "d/h"); show("link"); DO(unlink("d/f")); DO(unlink("d/h"));
    fresh("d/f"); fresh("d/o"); show("again"); printf("%d\n", inotify_add_watch(fd, "d/f", IN_ALL_EVENTS)); DO(rename("d/o", "d/f")); 
    fresh("d/m"); show("again"); printf("%d\n", inotify_add_watch(fd, "d/m", IN_ALL_EVENTS)); f = open("d/m", O_RDWR); m = mmap(0, 4096, PROT_READ, MAP_SHARED, f, 0); close(f); show("mapped"); DO(unlink("d/m")); DO(munmap(m, 4096));
    fresh("d/x"); show("again"); f = open("d/x", O_RDWR); show("open"); printf("%d\n", inotify_add_watch(fd, "d", IN_ALL_EVENTS | IN_EXCL_UNLINK)); DO(unlink("d/x")); DO(write(f, "a", 1)); DO(close(f)); inotify_add_watch(fd, "d", IN_ALL_EVENTS); fresh("d/x"); show("again"); f = open("d/x", O_RDWR); show("open"); DO(unlink("d/x")); DO(write(f, "a", 1)); DO(close(f));
    mkdir("d/s", 0755); show("mkdir"); printf("%d\n", inotify_add_watch(fd, "d/s", IN_ALL_EVENTS)); f = open("d/s", O_RDONLY); show("open"); DO(rmdir("d/s")); DO(close(f));
    mkdir("d/t", 0755); mkdir("d/u", 0755); show("mkdir"); printf("%d\n", inotify_add_watch(fd, "d/u", IN_ALL_EVENTS)); DO(rename("d/t", "d/u"));
    { int i = inotify_init1(IN_NONBLOCK); fresh("d/y"); show("again"); int w = inotify_add_watch(fd, "d/y", IN_DELETE_SELF | IN_ATTRIB); printf("%d\n", w); f = open("d/y", O_RDONLY); unlink("d/y"); show("unlinked"); printf("proc %d\n", (sprintf(b, "/proc/self/fd/%d", f), inotify_add_watch(i, b, IN_ALL_EVENTS))); DO(inotify_rm_watch(fd, w)); close(f); show("closed"); int n = read(i, b, sizeof b); struct inotify_event *e = (void *)b; printf("other %d %x\n", n > 0, n > 0 ? e->mask : 0); close(i); }
    { fresh("d/k"); show("again"); int w = inotify_add_watch(fd, "d/k", IN_ALL_EVENTS); printf("%d\n", w); pid_t k = fork(); if (!k) { int q = open("d/k", O_RDONLY); pause(); } usleep(20000); show("child has it open"); DO(unlink("d/k")); kill(k, SIGKILL); waitpid(k, 0, 0); show("child killed"); }
    DO(rmdir("d")); system("rm -r d"); show("rm -r");
    /* unmounting */
    { unsigned uid = getuid(), gid = getgid(); mkdir("e", 0755); if (unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) { put("/proc/self/setgroups", "deny"); sprintf(b, "0 %u 1", gid); put("/proc/self/gid_map", b); sprintf(b, "0 %u 1", uid); put("/proc/self/uid_map", b); mount("x", "e", "tmpfs", 0, NULL); fresh("e/f"); printf("%d %d\n", inotify_add_watch(fd, "e", IN_ALL_EVENTS), inotify_add_watch(fd, "e/f", IN_ALL_EVENTS)); DO(umount2("e", 0)); mount("x", "e", "tmpfs", 0, NULL); fresh("e/f"); printf("%d\n", inotify_add_watch(fd, "e/f", IN_ALL_EVENTS)); f = open("e/f", O_RDWR); show("open"); DO(umount2("e", MNT_DETACH)); DO(write(f, "x", 1)); DO(close(f)); } }
    return 0;
}
