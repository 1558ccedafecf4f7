/* /proc/self/fd and fdinfo: links, modes, opening anew. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void link_of(const char *label, int fd) {
    char path[64], text[256] = {0};
    struct stat st;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, text, sizeof text - 1);
    char *bracket = strchr(text, '[');
    if (bracket && bracket[1] >= '0' && bracket[1] <= '9') bracket[0] = 0; /* numbers differ */
    lstat(path, &st);
    printf("%s: %s %o\n", label, n < 0 ? strerror(errno) : text, st.st_mode);
}

int main(void) {
    char dir[] = "/tmp/proc_fd_XXXXXX";
    mkdtemp(dir);
    chdir(dir);
    int ends[2], pair[2], file = open("file", O_CREAT | O_RDWR, 0600), info;
    for (int fd = 10; fd < 20; fd++) close(fd);
    pipe(ends);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    link_of("pipe 0", ends[0]);
    link_of("pipe 1", ends[1]);
    link_of("socket", pair[0]);
    link_of("eventfd", eventfd(0, 0));
    link_of("null", open("/dev/null", O_WRONLY));
    link_of("closed", 500);
    char path[64], text[512] = {0}, want[128];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    snprintf(want, sizeof want, "%s/file", dir);
    readlink(path, text, sizeof text);
    printf("file %d\n", strcmp(text, want) == 0);
    write(file, "hello", 5);
    int again = open(path, O_RDONLY);
    printf("anew %zd\n", read(again, text, 10));
    unlink("file");
    memset(text, 0, sizeof text);
    readlink(path, text, sizeof text);
    printf("deleted %d\n", strstr(text, "/file (deleted)") != NULL);
    again = open(path, O_RDWR);
    printf("anew %zd\n", read(again, text, 10));
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[1]);
    again = open(path, O_WRONLY);
    write(again, "pipe", 4);
    printf("pipe %zd\n", read(ends[0], text, 10));
    snprintf(path, sizeof path, "/proc/self/fd/%d", pair[0]);
    errno = 0;
    printf("socket %d", open(path, O_RDWR));
    printf(" %d\n", errno);
    fcntl(file, F_SETFD, FD_CLOEXEC);
    lseek(file, 3, SEEK_SET);
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", file);
    FILE *f = fopen(path, "r");
    while (fgets(text, sizeof text, f))
        if (!strncmp(text, "pos:", 4) || !strncmp(text, "flags:", 6)) printf("%s", text);
    DIR *d = opendir("/proc/self/fd");
    int seen = 0;
    for (struct dirent *e; (e = readdir(d));) seen += atoi(e->d_name) == file && e->d_type == DT_LNK;
    printf("listed %d\n", seen);
    chdir("/");
    rmdir(dir);
    return 0;
}
