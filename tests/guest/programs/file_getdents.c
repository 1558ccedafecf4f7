#include "file_common.h"

struct entry {
    uint64_t ino;
    int64_t off;
    unsigned short reclen;
    unsigned char type;
    char name[];
};

static int cmp(const void *a, const void *b)
{
    return strcmp(a, b);
}

int main(void)
{
    char b[1024];
    static char names[300][32];
    int n = 0;
    mkdir("d", 0755);
    put_file("d/file", "");
    mkdir("d/dir", 0755);
    symlink("x", "d/link");
    mkfifo("d/fifo", 0600);
    for (int i = 0; i < 100; i++) {
        sprintf(b, "d/n%03d", i);
        put_file(b, "");
    }
    int fd = open("d", O_RDONLY | O_DIRECTORY), f = open("d/file", O_RDONLY);
    T(syscall(SYS_getdents64, fd, b, 10));
    for (;;) {
        long got = syscall(SYS_getdents64, fd, b, sizeof b);
        if (got <= 0) {
            printf("end %ld\n", got);
            break;
        }
        for (char *at = b; at < b + got;) {
            struct entry *e = (struct entry *)at;
            int t = e->type == 0 ? -1 : e->type; /* some file systems do not say */
            sprintf(names[n++], "%s %d", e->name, t);
            at += e->reclen;
        }
    }
    qsort(names, n, sizeof names[0], cmp);
    for (int i = 0; i < n; i++)
        if (i < 7 || i > n - 3)
            puts(names[i]);
    printf("%d entries\n", n);
    fflush(stdout);
    T(syscall(SYS_getdents64, fd, b, sizeof b));
    T(lseek(fd, 0, SEEK_SET));
    T(syscall(SYS_getdents64, fd, b, sizeof b) > 0);
    T(syscall(SYS_getdents64, f, b, sizeof b));
    T(syscall(SYS_getdents64, -1, b, sizeof b));
    lseek(fd, 0, SEEK_SET);
    T(syscall(SYS_getdents64, fd, 8, 1024));
    T(syscall(SYS_getdents, fd, b, sizeof b) > 0);
    /* telldir and seekdir come back to the same place. */
    DIR *dir = opendir("d");
    for (int i = 0; i < 50; i++)
        readdir(dir);
    long where = telldir(dir);
    struct dirent *e = readdir(dir);
    char at[256];
    strcpy(at, e->d_name);
    for (int i = 0; i < 20; i++)
        readdir(dir);
    seekdir(dir, where);
    printf("same %d\n", strcmp(at, readdir(dir)->d_name) == 0);
    rewinddir(dir);
    n = 0;
    while ((e = readdir(dir))) {
        n++;
        if (e->d_name[0] == 'n') { /* removing what was read does not disturb the rest */
            char path[300];
            sprintf(path, "d/%s", e->d_name);
            unlink(path);
        }
    }
    printf("%d then\n", n);
    rewinddir(dir);
    for (n = 0; readdir(dir); n++)
        ;
    printf("%d left\n", n);
    mkdir("gone", 0755);
    int g = open("gone", O_RDONLY);
    rmdir("gone");
    T(syscall(SYS_getdents64, g, b, sizeof b));
    return 0;
}
