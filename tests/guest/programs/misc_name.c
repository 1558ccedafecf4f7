/* PR_SET_NAME, PR_GET_NAME, pthread names, comm in /proc, and names after fork and exec. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void show(const char *path) {
    char text[64] = {0};
    FILE *f = fopen(path, "r");
    if (f != NULL) {
        fread(text, 1, sizeof text - 1, f);
        fclose(f);
    }
    printf("%s: %s", path, text);
}

static void *thread(void *arg) {
    char path[64];
    pthread_setname_np(pthread_self(), "helper");
    show("/proc/thread-self/comm");
    show("/proc/self/comm");
    snprintf(path, sizeof path, "/proc/self/task/%ld/comm", syscall(SYS_gettid));
    FILE *f = fopen(path, "w");
    fputs("renamed", f);
    printf("write %d\n", fclose(f));
    show("/proc/thread-self/comm");
    return arg;
}

int main(int argc, char **argv) {
    char name[16];
    if (argc > 1) {
        prctl(PR_GET_NAME, name);
        printf("after exec %s\n", name);
        return 0;
    }
    printf("%d\n", prctl(PR_SET_NAME, "a name longer than fifteen"));
    prctl(PR_GET_NAME, name);
    printf("%s\n", name);
    show("/proc/self/comm");
    pthread_t t;
    pthread_create(&t, NULL, thread, NULL);
    pthread_join(t, NULL);
    show("/proc/self/comm");
    FILE *f = fopen("/proc/self/status", "r");
    prctl(PR_SET_NAME, "new\nline\\");
    char line[64];
    fgets(line, sizeof line, f);
    printf("%s", line);
    f = fopen("/proc/self/stat", "r");
    fscanf(f, "%*d %63[^)]", line);
    printf("%s)\n", line);
    fflush(stdout);
    printf("%d", prctl(PR_SET_NAME, 8));
    printf(" %d\n", errno);
    fflush(stdout);
    if (fork() == 0) {
        prctl(PR_GET_NAME, name);
        printf("in child %d\n", strcmp(name, "new\nline\\") == 0);
        fflush(stdout);
        execl(argv[0], argv[0], "x", NULL);
    }
    wait(NULL);
    return 0;
}
