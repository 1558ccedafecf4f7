/* /proc/self/ns: names, identity, and that a child shares them. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    static const char *names[] = {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "user", "uts"};
    char path[64], text[64], child[64];
    int pid = fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    for (int i = 0; i < 9; i++) {
        struct stat st;
        unsigned long number = 0;
        memset(text, 0, sizeof text);
        memset(child, 0, sizeof child);
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        readlink(path, text, sizeof text - 1);
        stat(path, &st);
        sscanf(strchr(text, '['), "[%lu]", &number);
        int fd = open(path, O_RDONLY);
        int kind = ioctl(fd, 0xb703);
        snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, names[i]);
        readlink(path, child, sizeof child - 1);
        printf("%.*s %d %o %x %d\n", (int)(strchr(text, '[') - text), text, number == st.st_ino, st.st_mode, kind,
               strcmp(text, child) == 0);
        close(fd);
    }
    kill(pid, 9);
    wait(NULL);
    return 0;
}
