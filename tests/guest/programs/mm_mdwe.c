/* PR_SET_MDWE: memory that is written does not become executable. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PR_SET_MDWE_ 65
#define PR_GET_MDWE_ 66

static const char *err(long r) { return r < 0 ? strerrorname_np(errno) : "ok"; }

static void memory(void)
{
    char *w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *x = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *both = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("map both %s\n", err(both == MAP_FAILED ? -1 : 0));
    printf("map executable %s\n", err(x == MAP_FAILED ? -1 : 0));
    printf("gain %s\n", err(mprotect(w, 4096, PROT_READ | PROT_EXEC)));
    printf("keep %s\n", err(mprotect(x, 4096, PROT_EXEC)));
    printf("write and execute %s\n", err(mprotect(x, 4096, PROT_READ | PROT_WRITE | PROT_EXEC)));
    printf("write %s\n", err(mprotect(x, 4096, PROT_READ | PROT_WRITE)));
    printf("again %s\n", err(mprotect(x, 4096, PROT_READ | PROT_EXEC)));
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    if (argc > 1) {
        printf("after execve %d\n", prctl(PR_GET_MDWE_, 0, 0, 0, 0));
        return 0;
    }
    printf("get %d\n", prctl(PR_GET_MDWE_, 0, 0, 0, 0));
    printf("get with more %s\n", err(prctl(PR_GET_MDWE_, 1, 0, 0, 0)));
    printf("set 2 %s\n", err(prctl(PR_SET_MDWE_, 2, 0, 0, 0)));
    printf("set 4 %s\n", err(prctl(PR_SET_MDWE_, 4, 0, 0, 0)));
    printf("set with more %s\n", err(prctl(PR_SET_MDWE_, 1, 1, 0, 0)));
    printf("set 0 %s\n", err(prctl(PR_SET_MDWE_, 0, 0, 0, 0)));
    memory();
    for (int how = 1; how <= 3; how += 2) {
        if (!fork()) {
            printf("set %d %s\n", how, err(prctl(PR_SET_MDWE_, how, 0, 0, 0)));
            printf("set again %s\n", err(prctl(PR_SET_MDWE_, how, 0, 0, 0)));
            printf("unset %s\n", err(prctl(PR_SET_MDWE_, 0, 0, 0, 0)));
            printf("set the other %s\n", err(prctl(PR_SET_MDWE_, 4 - how, 0, 0, 0)));
            memory();
            if (!fork()) {
                printf("child %d\n", prctl(PR_GET_MDWE_, 0, 0, 0, 0));
                execl("/proc/self/exe", argv[0], "x", NULL);
            }
            wait(NULL);
            _exit(0);
        }
        wait(NULL);
    }
    return 0;
}
