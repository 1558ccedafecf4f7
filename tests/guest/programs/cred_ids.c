/* getuid and friends agree with getresuid and /proc/self/status. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/fsuid.h>

int main(void) {
    uid_t r, e, s;
    gid_t rg, eg, sg;
    printf("%d %d\n", getresuid(&r, &e, &s), getresgid(&rg, &eg, &sg));
    printf("%d %d\n", r == getuid() && e == geteuid(), rg == getgid() && eg == getegid());
    printf("fs %d %d\n", setfsuid(-1) == (int)e, setfsgid(-1) == (int)eg);
    FILE *f = fopen("/proc/self/status", "r");
    char line[512];
    while (fgets(line, sizeof line, f)) {
        unsigned a, b, c, d;
        if (sscanf(line, "Uid:\t%u\t%u\t%u\t%u", &a, &b, &c, &d) == 4)
            printf("uid %d\n", a == r && b == e && c == s && d == e);
        if (sscanf(line, "Gid:\t%u\t%u\t%u\t%u", &a, &b, &c, &d) == 4)
            printf("gid %d\n", a == rg && b == eg && c == sg && d == eg);
    }
    return 0;
}
