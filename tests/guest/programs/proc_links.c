/* exe, cwd, root, self and thread-self. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char text[256];

static const char *link_of(const char *path) {
    ssize_t n = readlink(path, text, sizeof text - 1);
    text[n < 0 ? 0 : n] = 0;
    return text;
}

static void *thread(void *arg) {
    char want[64];
    snprintf(want, sizeof want, "%d/task/%ld", getpid(), syscall(SYS_gettid));
    printf("thread-self %d\n", strcmp(link_of("/proc/thread-self"), want) == 0);
    return arg;
}

int main(int argc, char **argv) {
    char name[32], real[256];
    snprintf(name, sizeof name, "%d", getpid());
    printf("self %d\n", strcmp(link_of("/proc/self"), name) == 0);
    printf("exe %d\n", strcmp(link_of("/proc/self/exe"), realpath(argv[0], real)) == 0);
    printf("root %s\n", link_of("/proc/self/root"));
    char dir[] = "/tmp/proc_links_XXXXXX";
    mkdtemp(dir);
    chdir(dir);
    printf("cwd %d\n", strcmp(link_of("/proc/self/cwd"), dir) == 0);
    struct stat a, b;
    stat("/proc/self/cwd", &a);
    stat(".", &b);
    printf("same %d\n", a.st_ino == b.st_ino && a.st_dev == b.st_dev);
    rmdir(dir);
    printf("deleted %d\n", strstr(link_of("/proc/self/cwd"), " (deleted)") != NULL);
    printf("through %d\n", stat("/proc/self/cwd", &a) == 0 && a.st_ino == b.st_ino);
    chdir("/");
    pthread_t t;
    pthread_create(&t, NULL, thread, NULL);
    pthread_join(t, NULL);
    printf("%s %s\n", link_of("/proc/mounts"), link_of("/proc/net"));
    lstat("/proc/self/exe", &a);
    printf("%o\n", a.st_mode);
    printf("%d", open("/proc/self/nothing", 0));
    printf(" %d", errno);
    printf(" %d", open("/proc/new", 0101, 0600));
    printf(" %d", errno);
    printf(" %d", mkdir("/proc/self/new", 0700));
    printf(" %d\n", errno);
    return 0;
}
