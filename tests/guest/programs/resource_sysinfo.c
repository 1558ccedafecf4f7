/* sysinfo(2) and what the library makes of it and of /proc. */
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

int main(void) {
    struct sysinfo s;
    printf("%d\n", sysinfo(&s));
    printf("%d %d %d\n", s.totalram > 0, s.freeram <= s.totalram, s.mem_unit == 1);
    printf("%d %d\n", s.procs > 0, s.uptime >= 0);
    printf("%d\n", sysconf(_SC_PHYS_PAGES) > 0 && sysconf(_SC_AVPHYS_PAGES) <= sysconf(_SC_PHYS_PAGES));
    printf("%d %d\n", get_nprocs() > 0, get_nprocs() <= get_nprocs_conf());
    FILE *f = fopen("/proc/meminfo", "r");
    unsigned long total = 0;
    printf("%d\n", fscanf(f, "MemTotal: %lu kB", &total));
    unsigned long from_call = s.totalram / 1024;
    printf("%d\n", total == from_call);
    errno = 0;
    printf("%ld", syscall(SYS_sysinfo, (void *)8));
    printf(" %d\n", errno);
    return 0;
}
