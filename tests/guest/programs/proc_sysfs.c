/* /sys: the files from which programs count processors. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

static char text[4096];

static char *slurp(const char *path) {
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    text[n] = 0;
    if (f) fclose(f);
    return text;
}

static int count(char *list) {
    int n = 0;
    for (char *part = strtok(list, ",\n"); part; part = strtok(NULL, ",\n")) {
        int a, b;
        n += sscanf(part, "%d-%d", &a, &b) == 2 ? b - a + 1 : 1;
    }
    return n;
}

int main(void) {
    struct stat st;
    struct statfs fs;
    printf("online %d\n", count(slurp("/sys/devices/system/cpu/online")) == get_nprocs());
    printf("possible %d\n", count(slurp("/sys/devices/system/cpu/possible")) >= get_nprocs());
    int cpus = 0, a, end;
    DIR *d = opendir("/sys/devices/system/cpu");
    for (struct dirent *e; (e = readdir(d));) cpus += sscanf(e->d_name, "cpu%d%n", &a, &end) == 1 && e->d_name[end] == 0;
    printf("directories %d\n", cpus >= get_nprocs());
    printf("core %d\n", slurp("/sys/devices/system/cpu/cpu0/topology/core_id")[0] == '0');
    printf("node %s", slurp("/sys/devices/system/node/online"));
    stat("/sys/devices/system/cpu/online", &st);
    printf("%o %ld %ld\n", st.st_mode, st.st_size, st.st_blksize);
    statfs("/sys", &fs);
    printf("%d %lx\n", statfs("/sys", &fs), fs.f_type);
    printf("lo %d\n", access("/sys/class/net/lo/mtu", R_OK) == 0 ? strtol(slurp("/sys/class/net/lo/mtu"), NULL, 10) : -1);
    printf("cgroup %d\n", stat("/sys/fs/cgroup", &st));
    return 0;
}
