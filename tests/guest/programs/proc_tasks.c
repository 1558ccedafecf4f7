/* /proc/self/task: one directory a thread, gone when the thread is. */
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static pthread_barrier_t start, stop;
static int tids[3];

static void *thread(void *arg) {
    tids[(long)arg] = syscall(SYS_gettid);
    pthread_barrier_wait(&start);
    pthread_barrier_wait(&stop);
    return NULL;
}

static int count(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/task");
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

int main(void) {
    pthread_t t[3];
    char path[64], text[64];
    struct stat st;
    pthread_barrier_init(&start, NULL, 4);
    pthread_barrier_init(&stop, NULL, 4);
    for (long i = 0; i < 3; i++) pthread_create(&t[i], NULL, thread, (void *)i);
    pthread_barrier_wait(&start);
    stat("/proc/self/task", &st);
    printf("threads %d nlink %lu\n", count(), st.st_nlink);
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tids[1]);
    FILE *f = fopen(path, "r");
    fscanf(f, "%d", &tids[2]);
    printf("stat of thread %d\n", tids[2] == tids[1]);
    snprintf(path, sizeof path, "/proc/%d/status", tids[1]);
    f = fopen(path, "r");
    while (fgets(text, sizeof text, f))
        if (!strncmp(text, "Tgid:", 5)) printf("tgid %d\n", atoi(text + 5) == getpid());
    pthread_barrier_wait(&stop);
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
    snprintf(path, sizeof path, "/proc/self/task/%d", tids[1]);
    /* a thread can be joined before it is gone */
    while (stat(path, &st) == 0 || count() > 1) usleep(1000);
    printf("after %d\n", count());
    int child = fork(), shown = -1;
    if (child == 0) {
        pause();
        _exit(0);
    }
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    f = fopen(path, "r");
    if (f) fscanf(f, "%d", &shown);
    printf("children %d\n", shown == child);
    kill(child, 9);
    wait(NULL);
    return 0;
}
