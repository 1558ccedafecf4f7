/* Directories that change while they are read: nothing twice, nothing lost, stable offsets. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int count(const char *where)
{
    DIR *d = opendir(where);
    struct dirent *e;
    int n = 0;
    while ((e = readdir(d)))
        if (e->d_name[0] != '.')
            n++;
    closedir(d);
    return n;
}

int main(void)
{
    char name[64];
    static int seen[3000];
    mkdir("d", 0755);
    for (int i = 0; i < 3000; i++) {
        sprintf(name, "d/file-with-a-longer-name-%04d", i);
        close(open(name, O_CREAT | O_WRONLY, 0644));
    }
    printf("made %d\n", count("d"));
    DIR *d = opendir("d");
    struct dirent *e;
    int dots = 0, types = 0;
    while ((e = readdir(d))) {
        int i;
        if (sscanf(e->d_name, "file-with-a-longer-name-%d", &i) == 1) {
            seen[i]++;
            types += e->d_type == DT_REG;
            if (i % 3 == 0) {
                sprintf(name, "d/%s", e->d_name);
                unlink(name);
            }
        } else
            dots++;
    }
    int once = 0, twice = 0;
    for (int i = 0; i < 3000; i++) {
        once += seen[i] == 1;
        twice += seen[i] > 1;
    }
    printf("once %d twice %d dots %d regular %d left %d\n", once, twice, dots, types, count("d"));
    rewinddir(d);
    for (int i = 0; i < 100; i++)
        e = readdir(d);
    long where = telldir(d);
    e = readdir(d);
    strcpy(name, e->d_name);
    for (int i = 0; i < 500; i++)
        readdir(d);
    seekdir(d, where);
    e = readdir(d);
    printf("seekdir %s\n", strcmp(e->d_name, name) == 0 ? "same" : "other");
    rewinddir(d);
    while ((e = readdir(d)))
        if (e->d_name[0] == 'f')
            unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    int left = count("d");
    printf("left %d, rmdir %d\n", left, rmdir("d"));
    return 0;
}
