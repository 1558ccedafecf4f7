/* Securebits, bounding set, ambient set and no_new_privs through prctl(2). */
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void t(const char *what, int result) {
    printf("%s %d %d\n", what, result, result < 0 ? errno : 0);
    errno = 0;
}

int main(int argc, char **argv) {
    if (argc > 1) {
        t("after exec", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
        return 0;
    }
    setvbuf(stdout, NULL, _IONBF, 0);
    t("read", prctl(PR_CAPBSET_READ, CAP_CHOWN) >= 0 ? 0 : -1);
    t("read 63", prctl(PR_CAPBSET_READ, 63));
    t("keepcaps 2", prctl(PR_SET_KEEPCAPS, 2));
    t("ambient bad", prctl(PR_CAP_AMBIENT, 77, CAP_CHOWN, 0, 0));
    t("ambient cap", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 99, 0, 0));
    t("ambient args", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 1, 0, 0));
    t("ambient clear", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
    t("ambient set", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0));
    if (geteuid() == 0) {
        t("drop", prctl(PR_CAPBSET_DROP, CAP_CHOWN));
        t("read", prctl(PR_CAPBSET_READ, CAP_CHOWN));
        t("drop 63", prctl(PR_CAPBSET_DROP, 63));
        t("securebits", prctl(PR_SET_SECUREBITS, 0x30));
        t("get", prctl(PR_GET_SECUREBITS));
        t("unlock", prctl(PR_SET_SECUREBITS, 0));
        t("keepcaps locked", prctl(PR_SET_KEEPCAPS, 0));
        t("unknown bit", prctl(PR_SET_SECUREBITS, 0x1030));
        setresuid(1000, 1000, 1000);
    }
    t("nnp", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    t("nnp 0", prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
    t("nnp args", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 1));
    t("nnp 1", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    if (fork() == 0) {
        t("in child", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
        _exit(0);
    }
    wait(NULL);
    execl("/proc/self/exe", argv[0], "again", NULL);
    printf("exec failed %d\n", errno == EACCES); /* a directory that only root may enter */
    return 0;
}
