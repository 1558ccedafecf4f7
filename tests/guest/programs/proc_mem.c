/* /proc/PID/mem: one's own and a child's. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char buffer[64] = "the original text";

int main(void) {
    char text[64] = {0};
    int fd = open("/proc/self/mem", O_RDWR);
    printf("%zd %s\n", pread(fd, text, 12, (off_t)buffer), text);
    printf("%zd\n", pwrite(fd, "replaced", 8, (off_t)buffer + 4));
    printf("%s\n", buffer);
    printf("%zd", pread(fd, text, 8, 8));
    printf(" %d\n", errno);
    lseek(fd, (off_t)buffer, SEEK_SET);
    printf("%zd %.3s\n", read(fd, text, 3), text);
    int ready[2], go[2];
    pipe(ready);
    pipe(go);
    int child = fork();
    if (child == 0) {
        strcpy(buffer, "in the child");
        write(ready[1], "r", 1);
        read(go[0], text, 1);
        _exit(strcmp(buffer, "in the CHILD"));
    }
    read(ready[0], text, 1);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", child);
    fd = open(path, O_RDWR);
    memset(text, 0, sizeof text);
    printf("%zd", pread(fd, text, 12, (off_t)buffer));
    printf(" %s\n", text);
    printf("%zd\n", pwrite(fd, "CHILD", 5, (off_t)buffer + 7));
    write(go[1], "g", 1);
    int status;
    wait(&status);
    printf("%d\n", status);
    return 0;
}
