/* The changes of ids and capabilities by execve (capabilities(7)), without set-user-ID files. */
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILL (1u << CAP_KILL)

static struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
static struct __user_cap_data_struct data[2];

static void show(const char *label) {
    uid_t r, e, s;
    getresuid(&r, &e, &s);
    syscall(SYS_capget, &head, data);
    printf("  %s: uids %u %u %u kill e%d p%d i%d a%d keep %d dumpable %d secure %lu\n", label, r, e, s, !!(data[0].effective & KILL),
           !!(data[0].permitted & KILL), !!(data[0].inheritable & KILL), prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0),
           prctl(PR_GET_KEEPCAPS), prctl(PR_GET_DUMPABLE), getauxval(AT_SECURE));
    fflush(stdout);
}

static void inheritable(void) {
    syscall(SYS_capget, &head, data);
    data[0].inheritable |= KILL;
    syscall(SYS_capset, &head, data);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        show("after");
        return 0;
    }
    if (geteuid() != 0) return 0;
    /* The program must be reachable for the other users too. */
    char path[] = "/tmp/cred_exec_XXXXXX", command[600];
    close(mkstemp(path));
    snprintf(command, sizeof command, "cp %s %s && chmod 755 %s", argv[0], path, path);
    system(command);
    for (int which = 0; which < 7; which++) {
        printf("case %d\n", which);
        fflush(stdout);
        if (fork() == 0) {
            switch (which) {
            case 0: break;
            case 1: setresuid(1000, 1000, 1000); break;
            case 2: prctl(PR_SET_KEEPCAPS, 1); setresuid(1000, 1000, 1000); break;
            case 3: inheritable(); prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0);
                    prctl(PR_SET_SECUREBITS, 4); setresuid(1000, 1000, 1000); break;
            case 4: setresuid(-1, 1000, -1); break;
            case 5: setresuid(1000, -1, -1); break;
            case 6: prctl(PR_SET_SECUREBITS, 1); break;
            }
            show("before");
            execl(path, path, "x", NULL);
            printf("exec %d\n", errno);
            _exit(1);
        }
        wait(NULL);
    }
    unlink(path);
    return 0;
}
