/* The text of /proc/self/fd after renames, replacement and removal; reopening files without a name. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int skip;

static void show(const char *what, int fd)
{
    char name[64], b[4096];
    sprintf(name, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, b, sizeof b - 1);
    b[n < 0 ? 0 : n] = 0;
    printf("%s: %s\n", what, strlen(b) > skip ? b + skip : b);
}

int main(void)
{
    char b[4096], name[64];
    getcwd(b, sizeof b);
    skip = strlen(b);
    mkdir("d", 0755);
    mkdir("d/e", 0755);
    int f = open("d/e/file", O_CREAT | O_RDWR, 0644);
    int e = open("d/e", O_RDONLY);
    show("file", f);
    rename("d/e", "moved");
    show("file", f);
    show("directory", e);
    rename("moved/file", "other");
    show("file", f);
    close(open("new", O_CREAT | O_WRONLY, 0644));
    rename("new", "other");
    show("replaced", f);
    int o = open("other", O_RDONLY);
    show("other", o);
    unlink("other");
    show("removed", o);
    write(f, "kept", 4);
    sprintf(name, "/proc/self/fd/%d", f);
    int again = open(name, O_RDONLY);
    b[read(again, b, 10)] = 0;
    printf("reopened %s\n", b);
    show("reopened", again);
    printf("linkat %d\n", linkat(AT_FDCWD, name, AT_FDCWD, "revived", AT_SYMLINK_FOLLOW));
    int t = open(".", O_TMPFILE | O_RDWR, 0600);
    write(t, "temporary", 9);
    sprintf(name, "/proc/self/fd/%d", t);
    printf("linkat %d\n", linkat(AT_FDCWD, name, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    int n = open("named", O_RDONLY);
    b[read(n, b, 20)] = 0;
    printf("named %s\n", b);
    rmdir("moved");
    show("directory", e);
    skip = 0;
    show("memfd", memfd_create("test", 0));
    int p[2];
    pipe(p);
    struct stat st;
    fstat(p[0], &st);
    sprintf(name, "pipe:[%llu]", (unsigned long long)st.st_ino);
    char l[64];
    sprintf(b, "/proc/self/fd/%d", p[0]);
    ssize_t k = readlink(b, l, 63);
    l[k] = 0;
    printf("pipe %d\n", strcmp(l, name));
    return 0;
}
