/* The rights to read another process's files in /proc. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int target;

static void look(const char *name) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", target, name);
    int fd = open(path, O_RDONLY);
    char byte;
    ssize_t n = fd < 0 ? -1 : read(fd, &byte, 1);
    printf("  %s %s\n", name, fd < 0 ? strerror(errno) : n < 0 ? strerror(errno) : "readable");
    if (fd >= 0) close(fd);
}

static void look_all(void) {
    static const char *names[] = {"stat", "status", "cmdline", "comm", "limits", "maps", "environ", "auxv", "smaps", "io"};
    for (int i = 0; i < 10; i++) look(names[i]);
    char path[64], text[256];
    for (int i = 0; i < 3; i++) {
        static const char *links[] = {"exe", "cwd", "fd"};
        snprintf(path, sizeof path, "/proc/%d/%s", target, links[i]);
        errno = 0;
        int ok = i < 2 ? readlink(path, text, sizeof text) >= 0 : open(path, O_RDONLY) >= 0;
        printf("  %s %s\n", links[i], ok ? "readable" : strerror(errno));
    }
}

int main(void) {
    if (geteuid() != 0) return 0;
    setvbuf(stdout, NULL, _IONBF, 0);
    target = fork();
    if (target == 0) {
        setresgid(1000, 1000, 1000);
        setresuid(1000, 1000, 1000);
        prctl(PR_SET_DUMPABLE, 1);
        pause();
    }
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%d/environ", target);
    do usleep(1000), stat(path, &st); while (st.st_uid != 1000);
    printf("owner %u %u\n", st.st_uid, st.st_gid);
    for (int uid = 1000; uid <= 1001; uid++) {
        printf("as %d\n", uid);
        int child = fork();
        if (child == 0) {
            setgroups(0, NULL);
            setresgid(uid, uid, uid);
            setresuid(uid, uid, uid);
            look_all();
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    kill(target, 9);
    wait(NULL);
    return 0;
}
