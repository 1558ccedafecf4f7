#include "file_common.h"

/* Run as any user, in a directory of its own: only results that are the same for root and others, plus a child that
 * gives root up. */
int main(void)
{
    put_file("secret", "x");
    put_file("open", "x");
    mkdir("closed", 0700);
    put_file("closed/in", "x");
    mkdir("sticky", 0777);
    chmod("sticky", 01777);
    put_file("sticky/mine", "x");
    chmod("secret", 0);
    chmod("closed", 0);
    chmod(".", 0755);
    fflush(stdout);
    if (fork() == 0) {
        if (geteuid() == 0 && (setgroups(0, 0) || setgid(1234) || setuid(1234)))
            exit(1);
        T(open("secret", O_RDONLY));
        T(open("secret", O_WRONLY));
        T(open("secret", O_PATH));
        T(open("closed", O_RDONLY));
        T(open("closed/in", O_RDONLY));
        T(open("closed/new", O_CREAT | O_RDWR, 0600));
        T(access("closed/in", F_OK));
        T(access("secret", R_OK));
        T(access("secret", F_OK));
        T(chdir("closed"));
        struct stat st;
        T(stat("closed", &st));
        T(stat("closed/in", &st));
        T(stat("closed/none", &st));
        T(truncate("secret", 0));
        T(rename("closed/in", "x") < 0);
        exit(0);
    }
    int st;
    wait(&st);
    printf("%d\n", WEXITSTATUS(st));
    chmod("closed", 0700);
    return 0;
}
