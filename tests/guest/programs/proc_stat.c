/* /proc/PID/stat, statm and status: number and order of fields, and the fields with definite values. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static char text[8192];

static char *slurp(const char *path) {
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    text[n] = 0;
    if (f) fclose(f);
    return text;
}

static unsigned long status(const char *key) {
    char *at = strstr(slurp("/proc/self/status"), key);
    return at ? strtoul(at + strlen(key) + 1, NULL, 10) : -1ul;
}

int main(void) {
    prctl(PR_SET_NAME, "x) R (y");
    setpriority(PRIO_PROCESS, 0, 3);
    char *s = slurp("/proc/self/stat");
    char *end = strrchr(s, ')');
    int count = 2;
    char *fields[64];
    for (char *p = strtok(end + 2, " \n"); p; p = strtok(NULL, " \n")) fields[++count] = p;
    printf("fields %d pid %d comm %.8s\n", count, atoi(s) == getpid(), strchr(s, '('));
    printf("state %s ppid %d pgrp %d session %d\n", fields[3], atoi(fields[4]) == getppid(), atoi(fields[5]) == getpgrp(),
           atoi(fields[6]) == getsid(0));
    printf("priority %s nice %s threads %s itreal %s\n", fields[18], fields[19], fields[20], fields[21]);
    printf("vsize %d rss %d rsslim %s\n", atol(fields[23]) > 4096, atol(fields[24]) > 0, fields[25]);
    unsigned long code = strtoul(fields[26], NULL, 10), code_end = strtoul(fields[27], NULL, 10), stack = strtoul(fields[28], NULL, 10);
    printf("code %d stack %d\n", code <= (unsigned long)main && (unsigned long)main < code_end, stack > (unsigned long)&count);
    printf("exit signal %s rt %s policy %s\n", fields[38], fields[40], fields[41]);
    printf("arg %d env %d\n", atol(fields[48]) < atol(fields[49]), atol(fields[49]) <= atol(fields[50]));
    unsigned long size, rss, shared, txt, lib, data, dirty;
    printf("statm %d", sscanf(slurp("/proc/self/statm"), "%lu %lu %lu %lu %lu %lu %lu", &size, &rss, &shared, &txt, &lib, &data, &dirty));
    printf(" %d %d %lu %lu\n", rss <= size, data < size, lib, dirty);
    printf("status %d %d %d\n", status("\nPid:") == getpid(), status("\nPPid:") == getppid(), status("\nThreads:") == 1);
    unsigned long before = status("\nVmSize:");
    void *p = mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("grown by %lu\n", status("\nVmSize:") - before);
    printf("peak %d\n", status("\nVmPeak:") >= status("\nVmSize:"));
    memset(p, 1, 32 << 20);
    printf("resident %d\n", status("\nVmRSS:") >= 32 << 10);
    printf("%s\n", strtok(strstr(slurp("/proc/self/status"), "State:"), "\n"));
    printf("%s\n", strtok(strstr(slurp("/proc/self/status"), "Umask:"), "\n"));
    return 0;
}
