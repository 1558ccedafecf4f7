/* A large file of the host is changed in every way: appended to, written inside, copied to, truncated, mapped; others read
 * it meanwhile.  (In a private view each first change copies it.) */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (9 << 20)

static unsigned sum(const char *name)
{
    static char data[65536];
    unsigned total = 0;
    int fd = open(name, O_RDONLY);
    for (ssize_t got; (got = read(fd, data, sizeof data)) > 0;)
        for (ssize_t i = 0; i < got; i++)
            total = total * 31 + (unsigned char)data[i];
    close(fd);
    return total;
}

static void show(const char *what, const char *name, long result)
{
    struct stat st;
    stat(name, &st);
    printf("%s: %ld, size %ld, sum %x\n", what, result, (long)st.st_size, sum(name));
}

int main(void)
{
    char name[6][16];
    for (int i = 0; i < 6; i++) {
        sprintf(name[i], "big_%d", i);
        int made = open(name[i], O_WRONLY | O_CREAT | O_EXCL, 0644); /* unless the test has made it */
        if (made >= 0)
            ftruncate(made, SIZE);
        close(made);
    }
    int fd = open(name[0], O_WRONLY | O_APPEND | O_NONBLOCK);
    show("append", name[0], write(fd, "end", 3));
    fd = open(name[1], O_RDWR);
    int again = open(name[1], O_RDWR);
    pid_t child = fork();
    if (!child)
        _exit(pwrite(again, "child", 5, 5 << 20) == 5 ? 0 : 1);
    long result = pwrite(fd, "parent", 6, 1 << 20);
    int status;
    waitpid(child, &status, 0);
    char got[8] = "";
    pread(fd, got, 5, 5 << 20);
    printf("child %d %s\n", status, got);
    show("inside", name[1], result);
    fd = open(name[2], O_RDWR);
    int source = open(name[0], O_RDONLY);
    show("sendfile", name[2], sendfile(fd, source, NULL, 3 << 20));
    fd = open(name[3], O_RDWR);
    loff_t in = 1 << 20, out = 2 << 20;
    show("copy_file_range", name[3], copy_file_range(source, &in, fd, &out, 3 << 20, 0));
    fd = open(name[4], O_RDWR);
    show("truncate", name[4], ftruncate(fd, 6 << 20));
    fd = open(name[5], O_RDWR);
    char *map = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    strcpy(map + 100, "mapped");
    show("mapped", name[5], map[100]);
    return 0;
}
