#include "file_common.h"

int main(void)
{
    char a[4096], b[4096];
    put_file("f", "x");
    mkdir("d", 0755);
    mkdir("d/e", 0755);
    symlink("d/e", "s");
    getcwd(a, sizeof a);
    size_t n = strlen(a);
    T(chdir("d/e"));
    getcwd(b, sizeof b);
    printf("%s\n", b + n);
    T(chdir("../.."));
    T(chdir("s"));
    getcwd(b, sizeof b);
    printf("%s\n", b + n);
    T(chdir(".."));
    getcwd(b, sizeof b);
    printf("%s\n", b + n);
    T(chdir(".."));
    T(chdir("f"));
    T(chdir("none"));
    T(chdir(""));
    T(chdir((char *)8));
    T(syscall(SYS_getcwd, b, 2));
    T(syscall(SYS_getcwd, b, 0));
    T(syscall(SYS_getcwd, b, 4096) == (long)n + 1);
    T(syscall(SYS_getcwd, 8, 4096));
    int d = open("d", O_RDONLY), f = open("f", O_RDONLY);
    T(fchdir(f));
    T(fchdir(-1));
    T(fchdir(d));
    T(access("e", F_OK));
    T(rename("../d", "../moved"));
    getcwd(b, sizeof b);
    printf("%s\n", b + n);
    mkdir("gone", 0755);
    chdir("gone");
    rmdir("../gone");
    T(syscall(SYS_getcwd, b, 4096));
    T(open("x", O_CREAT | O_RDWR, 0600));
    T(access(".", F_OK));
    T(chdir(".."));
    T(mkdir("../moved/ok", 0755));
    T(chdir("/"));
    T(syscall(SYS_getcwd, b, 4096));
    T(chdir("/../.."));
    puts(getcwd(b, sizeof b));
    return 0;
}
