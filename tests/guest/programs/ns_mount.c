/* Mounts of an unprivileged user in a user namespace: what is allowed, what stays locked. */
#include "event_show.h"
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    write(fd, text, strlen(text));
    close(fd);
}

static void show_owner(const char *path)
{
    struct stat st;
    if (stat(path, &st))
        printf("%s: %s\n", path, strerrorname_np(errno));
    else
        printf("%s: %u:%u %o\n", path, st.st_uid, st.st_gid, st.st_mode);
}

/* The options of the last mount at a place, in both files; not those after its size. */
static void show_options(const char *place)
{
    const char *files[] = {"/proc/self/mountinfo", "/proc/self/mounts"};
    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(files[i], "r");
        static char line[4096], last[4096];
        *last = 0;
        while (fgets(line, sizeof line, f))
            if (strstr(line, place))
                strcpy(last, line);
        fclose(f);
        char *size = strstr(last, ",size");
        if (size)
            *size = 0;
        char *at = strstr(last, place);
        printf("%s:%s\n", files[i], at ? at + strlen(place) : "none");
    }
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    umask(022);
    chmod(".", 0777);
    setgid(1234);
    setuid(1234);
    prctl(PR_SET_DUMPABLE, 1);
    mkdir("d", 0755);
    mkdir("e", 0755);
    mkdir("d/below", 0755);
    SHOW(mount("none", "d", "tmpfs", 0, NULL));
    SHOW(unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWNET));
    put("/proc/self/setgroups", "deny");
    put("/proc/self/gid_map", "0 1234 1");
    put("/proc/self/uid_map", "0 1234 1");
    SHOW(umount2("/proc", 0));
    SHOW(umount2("/proc", MNT_DETACH));
    SHOW(mount("/proc", "e", NULL, MS_BIND, NULL));
    SHOW(mount("none", "/proc", NULL, MS_MOVE, NULL));
    SHOW(mount("none", "d", "tmpfs", 0, "mode=750"));
    show_owner("d");
    SHOW(mkdir("d/x", 0700));
    show_owner("d/x");
    SHOW(mknod("d/null", S_IFCHR | 0666, 0x103));
    SHOW(mount("none", "e", "tmpfs", 0, "uid=1234"));
    SHOW(mount("none", "e", "tmpfs", 0, "uid=0,gid=0,mode=700"));
    SHOW(mount("none", "e", "nonsense", 0, NULL));
    SHOW(mount("none", "e", "mqueue", 0, NULL));
    SHOW(umount2("e", 0));
    SHOW(umount2("e", 0));
    SHOW(mount("none", "e", "devpts", 0, "newinstance,ptmxmode=0666,mode=620"));
    show_owner("e/ptmx");
    int master = open("e/ptmx", O_RDWR | O_NOCTTY);
    printf("master %d\n", master >= 0);
    show_owner("e/0");
    close(master);
    SHOW(umount2("e", MNT_DETACH));
    SHOW(mount("proc", "e", "proc", 0, NULL)); /* the namespace has no process yet */
    if (fork() == 0) {
        SHOW(mount("proc", "e", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
        show_owner("e/1");
        show_owner("e/self/status");
        SHOW(umount2("e", 0));
        _exit(0);
    }
    wait(NULL);
    SHOW(mount("d", "e", NULL, MS_BIND, NULL));
    SHOW(mount(NULL, "e", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
    SHOW(mkdir("e/y", 0700));
    SHOW(mkdir("d/y", 0700));
    SHOW(mount(NULL, "e", NULL, MS_REMOUNT | MS_BIND, NULL));
    SHOW(mkdir("e/z", 0700));
    /* A further, less privileged namespace cannot undo what this one has set. */
    SHOW(mount(NULL, "e", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, NULL));
    if (fork() == 0) {
        SHOW(unshare(CLONE_NEWUSER | CLONE_NEWNS));
        put("/proc/self/setgroups", "deny");
        put("/proc/self/gid_map", "0 0 1");
        put("/proc/self/uid_map", "0 0 1");
        SHOW(umount2("e", MNT_DETACH));
        SHOW(mount(NULL, "e", NULL, MS_REMOUNT | MS_BIND, NULL));
        SHOW(mount(NULL, "e", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
        SHOW(mount(NULL, "e", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, NULL));
        SHOW(mount(NULL, "e", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOATIME, NULL));
        SHOW(mount(NULL, "d", NULL, MS_REMOUNT, "size=1m"));
        SHOW(mount(".", "d", NULL, MS_BIND, NULL));
        SHOW(mount(".", "d", NULL, MS_BIND | MS_REC, NULL));
        SHOW(mount("none", "d", "tmpfs", 0, NULL));
        SHOW(mkdir("d/new", 0700));
        SHOW(mount("d/new", "d/new", NULL, MS_BIND, NULL));
        SHOW(umount2("d/new", 0));
        _exit(0);
    }
    wait(NULL);
    SHOW(umount2("e", MNT_DETACH));
    SHOW(access("e/y", F_OK));
    SHOW(umount2("d", 0));
    show_owner("d/below");
    SHOW(mount("none", "d", "tmpfs", MS_SYNCHRONOUS | MS_DIRSYNC | MS_NOSUID, "size=64k"));
    show_options("/d ");
    SHOW(mount("none", "d", NULL, MS_REMOUNT | MS_NODEV, NULL));
    show_options("/d ");
    SHOW(mount("none", "d", NULL, MS_REMOUNT | MS_BIND | MS_SYNCHRONOUS, NULL));
    show_options("/d ");
    SHOW(mount("none", "d", NULL, MS_REMOUNT | MS_SYNCHRONOUS | MS_RDONLY, NULL));
    show_options("/d ");
    SHOW(umount2("d", 0));
    /* pivot_root as containers do it. */
    SHOW(mount("none", "d", "tmpfs", 0, NULL));
    SHOW(mkdir("d/old", 0700));
    SHOW(syscall(SYS_pivot_root, "d", "d"));
    SHOW(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    SHOW(mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL));
    SHOW(syscall(SYS_pivot_root, "e", "e/nothing"));
    SHOW(syscall(SYS_pivot_root, "d", "d/old"));
    SHOW(chdir("/"));
    SHOW(access("/old/proc/self", F_OK));
    SHOW(umount2("/old", 0));
    SHOW(umount2("/old", MNT_DETACH));
    SHOW(access("/old/proc/self", F_OK));
    SHOW(rmdir("/old"));
    SHOW(access("/usr", F_OK));
    return 0;
}
