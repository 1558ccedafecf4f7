/* The files of /proc/self that take writes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void put(const char *name, const char *value) {
    char path[64], text[64] = {0};
    snprintf(path, sizeof path, "/proc/self/%s", name);
    int fd = open(path, O_WRONLY);
    errno = 0;
    ssize_t n = fd < 0 ? -1 : write(fd, value, strlen(value));
    int error = errno;
    close(fd);
    fd = open(path, O_RDONLY);
    ssize_t m = read(fd, text, sizeof text - 1);
    close(fd);
    text[m > 0 ? m : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    printf("%s <- %s: %zd %d, now %s\n", name, value, n, n < 0 ? error : 0, text);
}

int main(void) {
    put("comm", "a new name for it");
    put("comm", "x\n");
    put("oom_score_adj", "100");
    put("oom_score_adj", "1001");
    put("oom_score_adj", "abc");
    put("oom_score_adj", "200\n");
    put("timerslack_ns", "70000");
    put("timerslack_ns", "0");
    return 0;
}
