/* The system-wide files: formats that programs parse. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

static char text[1 << 20];

static char *slurp(const char *path) {
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    text[n] = 0;
    if (f) fclose(f);
    return text;
}

static int lines_with(const char *path, const char *key) {
    int n = 0;
    for (char *p = strtok(slurp(path), "\n"); p; p = strtok(NULL, "\n")) n += strncmp(p, key, strlen(key)) == 0;
    return n;
}

int main(void) {
    struct stat st;
    struct statfs fs;
    printf("cpuinfo %d\n", lines_with("/proc/cpuinfo", "processor\t: ") == get_nprocs());
    printf("cpus in stat %d\n", lines_with("/proc/stat", "cpu") == get_nprocs() + 1);
    double up, idle, now;
    printf("uptime %d", sscanf(slurp("/proc/uptime"), "%lf %lf", &up, &idle));
    printf(" %d\n", up >= 0 && idle >= 0);
    double a, b, c;
    int running, total, last;
    printf("loadavg %d", sscanf(slurp("/proc/loadavg"), "%lf %lf %lf %d/%d %d", &a, &b, &c, &running, &total, &last));
    printf(" %d\n", running >= 1 && total >= running && last >= getpid() - 1);
    unsigned long btime = 0;
    char *at = strstr(slurp("/proc/stat"), "btime ");
    if (at) btime = atol(at + 6);
    printf("btime %d\n", btime > 1600000000 && btime <= (unsigned long)time(NULL) + 5);
    printf("meminfo %d %d %d\n", lines_with("/proc/meminfo", "MemTotal: "), lines_with("/proc/meminfo", "MemAvailable: "),
           lines_with("/proc/meminfo", "SwapFree: "));
    printf("filesystems %d %d\n", lines_with("/proc/filesystems", "nodev\tproc"), lines_with("/proc/filesystems", "nodev\ttmpfs"));
    printf("devices %d %d\n", lines_with("/proc/devices", "Character devices:"), lines_with("/proc/devices", "Block devices:"));
    printf("swaps %d\n", lines_with("/proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority"));
    statfs("/proc", &fs);
    printf("statfs %d %lx %d\n", statfs("/proc", &fs), fs.f_type, (int)fs.f_namelen);
    stat("/proc/meminfo", &st);
    printf("%o %ld %ld %ld\n", st.st_mode, st.st_size, st.st_nlink, st.st_blocks);
    stat("/proc", &st);
    printf("%o %d\n", st.st_mode, st.st_ino == 1);
    int fd = open("/proc/version", O_RDONLY);
    char one[5], two[5];
    read(fd, one, 5);
    printf("%d", (int)lseek(fd, 0, SEEK_SET));
    read(fd, two, 5);
    printf(" %d", memcmp(one, two, 5) == 0);
    pread(fd, two, 5, 6);
    printf(" %.5s\n", two);
    errno = 0;
    printf("%zd", write(fd, "x", 1));
    printf(" %d\n", errno);
    /* Two reads in a row see one text, even if the state changes in between. */
    fd = open("/proc/self/status", O_RDONLY);
    printf("%zd\n", read(fd, one, 5));
    printf("%.5s\n", one);
    return 0;
}
