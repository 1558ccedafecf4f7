/* personality(2): stored, inherited, returned. */
#include <stdio.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    struct utsname u;
    printf("%x\n", personality(0xffffffff));
    printf("%x\n", personality(PER_LINUX32 | ADDR_NO_RANDOMIZE));
    printf("%x\n", personality(0xffffffff));
    uname(&u);
    printf("%s\n", u.machine);
    char text[16] = {0};
    FILE *f = fopen("/proc/self/personality", "r");
    fread(text, 1, 15, f);
    printf("%s", text);
    fflush(stdout);
    if (fork() == 0) {
        printf("%x\n", personality(PER_LINUX));
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    printf("%x\n", personality(UNAME26));
    uname(&u);
    printf("%d %s\n", strncmp(u.release, "2.6.", 4) == 0, u.machine);
    return 0;
}
