/* Deep directories: paths longer than PATH_MAX by steps, `..`, moves of an ancestor, removed working directories. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
    static char b[20000], name[201], start[4096];
    struct stat a, c;
    getcwd(start, sizeof start);
    memset(name, 'n', 200);
    mkdir("top", 0755);
    chdir("top");
    for (int i = 0; i < 30; i++) {
        if (mkdir(name, 0755) || chdir(name))
            printf("failed at %d: %s\n", i, strerror(errno));
    }
    errno = 0;
    char *cwd = getcwd(b, sizeof b);
    printf("getcwd %s\n", cwd ? "works" : strerror(errno));
    for (long size = 10; size <= 20000; size += 19990) { /* not by glibc, which finds its own way then */
        long done = syscall(SYS_getcwd, b, size);
        printf("%ld %s\n", done, strerror(errno));
    }
    close(open("file", O_CREAT | O_WRONLY, 0644));
    stat(".", &a);
    stat("../../..", &c);
    printf("different %d\n", a.st_ino != c.st_ino);
    for (int i = 0; i < 29; i++)
        chdir("..");
    getcwd(b, sizeof b);
    printf("%d %d\n", (int)(strlen(b) - strlen(start)), strncmp(b, start, strlen(start)));
    char *up = "../../..";
    mkdir("x", 0755);
    chdir("x");
    if (rename("../../../top", "../../../moved"))
        printf("rename %s\n", strerror(errno));
    getcwd(b, sizeof b);
    printf("%.6s %s\n", b + strlen(start) + 1, strrchr(b, '/'));
    printf("up %d\n", chdir(up));
    getcwd(b, sizeof b);
    printf("back %d\n", strcmp(b, start));
    mkdir("gone", 0755);
    chdir("gone");
    int here = open(".", O_RDONLY);
    printf("rmdir %d\n", rmdir("../gone"));
    printf("getcwd %s\n", getcwd(b, sizeof b) ? b : strerror(errno));
    printf("open %s\n", open("x", O_CREAT | O_WRONLY, 0644) < 0 ? strerror(errno) : "ok");
    printf("mkdir %s\n", mkdir("x", 0755) < 0 ? strerror(errno) : "ok");
    printf("stat %d links %d\n", fstat(here, &a), (int)a.st_nlink);
    printf("dot %d\n", stat(".", &c));
    printf("same %d\n", a.st_ino == c.st_ino);
    sprintf(b, "/proc/self/fd/%d", here);
    char l[4096];
    ssize_t n = readlink(b, l, sizeof l - 1);
    l[n] = 0;
    printf("%s\n", strrchr(l, '/'));
    printf("up %d\n", chdir(".."));
    getcwd(b, sizeof b);
    printf("back %d\n", strcmp(b, start));
    printf("%d\n", system("rm -rf moved && ls"));
    return 0;
}
