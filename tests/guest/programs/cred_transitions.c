/* The effect of a change of uids on capabilities (capabilities(7)). */
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHOWN (1u << CAP_CHOWN)
#define KILL (1u << CAP_KILL)

static void show(const char *label) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    syscall(SYS_capget, &head, data);
    printf("  %s: chown %d%d kill %d%d\n", label, !!(data[0].effective & CHOWN), !!(data[0].permitted & CHOWN),
           !!(data[0].effective & KILL), !!(data[0].permitted & KILL));
}

static int ambient(int op) { return prctl(PR_CAP_AMBIENT, op, CAP_KILL, 0, 0); }

static void inheritable(unsigned mask) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    syscall(SYS_capget, &head, data);
    data[0].inheritable = mask;
    printf("  inheritable %ld\n", syscall(SYS_capset, &head, data));
}

int main(void) {
    if (geteuid() != 0) return 0;
    setvbuf(stdout, NULL, _IONBF, 0);
    for (int which = 0; which < 6; which++) {
        printf("case %d\n", which);
        if (fork() == 0) {
            show("start");
            switch (which) {
            case 0: setuid(1000); show("setuid"); break;
            case 1: seteuid(1000); show("seteuid"); seteuid(0); show("back"); break;
            case 2: prctl(PR_SET_KEEPCAPS, 1); setuid(1000); show("keepcaps");
                    printf("  keep %d\n", prctl(PR_GET_KEEPCAPS)); break;
            case 3: setfsuid(1000); show("fsuid"); setfsuid(0); show("back"); break;
            case 4: prctl(PR_SET_SECUREBITS, 4); setuid(1000); show("no fixup"); break;
            case 5: printf("  %d", ambient(PR_CAP_AMBIENT_RAISE)); printf(" %d\n", errno);
                    inheritable(KILL); printf("  %d %d\n", ambient(PR_CAP_AMBIENT_RAISE), ambient(PR_CAP_AMBIENT_IS_SET));
                    prctl(PR_SET_KEEPCAPS, 1); setuid(1000);
                    printf("  after setuid %d\n", ambient(PR_CAP_AMBIENT_IS_SET)); show("keepcaps"); break;
            }
            _exit(0);
        }
        wait(NULL);
    }
    return 0;
}
