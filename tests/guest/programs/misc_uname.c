/* uname(2), gethostname(2), sethostname(2) and /proc/sys/kernel agree. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

static void same(const char *path, const char *value) {
    char text[128] = {0};
    FILE *f = fopen(path, "r");
    fgets(text, sizeof text, f);
    text[strcspn(text, "\n")] = 0;
    printf("%s %d\n", path, strcmp(text, value) == 0);
}

int main(void) {
    struct utsname u;
    printf("%d %s %s\n", uname(&u), u.sysname, u.machine);
    printf("release %d\n", u.release[0] >= '3');
    same("/proc/sys/kernel/ostype", u.sysname);
    same("/proc/sys/kernel/osrelease", u.release);
    same("/proc/sys/kernel/version", u.version);
    same("/proc/sys/kernel/hostname", u.nodename);
    same("/proc/sys/kernel/domainname", u.domainname);
    char head[300], want[300];
    FILE *f = fopen("/proc/version", "r");
    fgets(head, sizeof head, f);
    snprintf(want, sizeof want, "Linux version %s (", u.release);
    printf("%d\n", strncmp(head, want, strlen(want)) == 0);
    if (geteuid() == 0) setresuid(1000, 1000, 1000);
    errno = 0;
    printf("%d", sethostname("x", 1));
    printf(" %d\n", errno);
    printf("%ld", syscall(SYS_uname, (void *)8));
    printf(" %d\n", errno);
    return 0;
}
