/* The pattern of editors and databases: write a new file, rename it over the old one, readers keep theirs. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void put(const char *name, const char *text)
{
    int fd = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    write(fd, text, strlen(text));
    fsync(fd);
    close(fd);
}

static void show(const char *what, int fd)
{
    char b[100];
    struct stat st;
    ssize_t n = pread(fd, b, sizeof b - 1, 0);
    b[n < 0 ? 0 : n] = 0;
    fstat(fd, &st);
    printf("%s: %s, %d links\n", what, b, (int)st.st_nlink);
}

int main(void)
{
    put("file", "one");
    int first = open("file", O_RDONLY);
    char *m = mmap(0, 4096, PROT_READ, MAP_SHARED, first, 0);
    for (int i = 2; i < 6; i++) {
        char text[20];
        sprintf(text, "version %d", i);
        put("file.tmp", text);
        rename("file.tmp", "file");
        int now = open("file", O_RDONLY);
        show("first", first);
        show("now", now);
        close(now);
    }
    printf("mapped %.3s\n", m);
    int d = open(".", O_RDONLY | O_DIRECTORY);
    printf("fsync of the directory %d\n", fsync(d));
    link("file", "file.bak");
    put("file", "in place");
    show("backup", open("file.bak", O_RDONLY));
    unlink("file");
    rename("file.bak", "file");
    show("file", open("file", O_RDONLY));
    put("a", "A");
    put("b", "B");
    int a = open("a", O_RDONLY);
    printf("exchange %d\n", renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE));
    show("a", open("a", O_RDONLY));
    show("old a", a);
    return 0;
}
