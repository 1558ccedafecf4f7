/* Large reads of files that have been read a lot (in cloche the stub copies them from a mapping): into buffers that end
 * early, of files that end early, in children, and of more files than can be mapped at once. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (1 << 20)
#define STEP (256 << 10)
#define FILES 20

static char *buffer;

static int open_file(int file)
{
    char path[16];
    sprintf(path, "f%d", file);
    return open(path, O_RDWR | O_CREAT, 0644);
}

static void show(const char *what, int fd, long got)
{
    printf("%s: %ld", what, got);
    if (got < 0)
        printf(" errno %d", errno);
    printf(", at %ld\n", (long)lseek(fd, 0, SEEK_CUR));
}

static int read_all(int file)
{
    int fd = open_file(file), wrong = 0;
    for (int round = 0; round < 3; round++)
        for (long at = 0; at < SIZE; at += STEP) {
            memset(buffer, 0, STEP);
            if (pread(fd, buffer, STEP, at) != STEP)
                wrong++;
            for (int i = 0; i < STEP; i += 512)
                wrong += buffer[i] != (char)(file + 1 + (at + i) / 4096);
        }
    close(fd);
    return wrong;
}

static int read_files(void)
{
    int wrong = 0;
    for (int file = 0; file < FILES; file++)
        wrong += read_all(file);
    return wrong;
}

int main(void)
{
    buffer = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int file = 0; file < FILES; file++) {
        int fd = open_file(file);
        for (int page = 0; page < SIZE / 4096; page++)
            memset(buffer + page * 4096, file + 1 + page, 4096);
        write(fd, buffer, SIZE);
        close(fd);
    }
    int status, wrong = read_files();
    pid_t pid = fork();
    if (!pid)
        _exit(read_files() != 0);
    wrong += read_files();
    waitpid(pid, &status, 0);
    printf("wrong here: %d, in the child: %d\n", wrong, status);

    int fd = open_file(FILES - 1);
    char *end = buffer + STEP;
    munmap(end, SIZE - STEP);
    lseek(fd, 4096, SEEK_SET);
    show("read, the buffer ends", fd, read(fd, end - 3 * 4096, STEP));
    show("and goes on", fd, read(fd, end - 4096, 4096));
    printf("%d %d\n", end[-3 * 4096], end[-1]);
    show("pread", fd, pread(fd, end - 2 * 4096, STEP, 8192));
    struct iovec parts[] = {{buffer, STEP / 2}, {end - 4096, STEP / 2}, {buffer, STEP / 2}};
    show("readv", fd, readv(fd, parts, 3));
    show("preadv2", fd, preadv2(fd, parts + 1, 2, -1, 0));
    show("read, there is no buffer", fd, read(fd, end, STEP));
    mprotect(buffer, STEP, PROT_READ);
    show("read, the buffer cannot be written", fd, read(fd, buffer, STEP));
    mprotect(buffer, STEP, PROT_READ | PROT_WRITE);
    lseek(fd, 0, SEEK_SET);
    show("the first part", fd, read(fd, buffer, STEP));
    ftruncate(fd, STEP + 5000);
    show("the rest", fd, read(fd, buffer, STEP));
    show("the end", fd, read(fd, buffer, STEP));
    ftruncate(fd, 0);
    show("an empty file", fd, pread(fd, buffer, STEP, 0));
    return 0;
}
