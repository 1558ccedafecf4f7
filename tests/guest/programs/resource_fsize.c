/* RLIMIT_FSIZE: SIGXFSZ, EFBIG and the partial write before. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

static volatile int caught;
static void on(int signo) { caught = signo; }

int main(void) {
    char path[] = "/tmp/resource_fsize_XXXXXX", buffer[5000] = {0};
    extern int mkstemp(char *);
    int fd = mkstemp(path);
    unlink(path);
    signal(SIGXFSZ, on);
    struct rlimit limit = {4096, RLIM_INFINITY};
    printf("%d\n", setrlimit(RLIMIT_FSIZE, &limit));
    printf("%zd %d\n", write(fd, buffer, 5000), caught);
    printf("%zd", write(fd, buffer, 1));
    printf(" %d %d\n", errno, caught);
    caught = errno = 0;
    printf("%d", ftruncate(fd, 5000));
    printf(" %d %d\n", errno, caught);
    printf("%d\n", ftruncate(fd, 100));
    printf("%zd\n", pwrite(fd, buffer, 10, 4090));
    return 0;
}
