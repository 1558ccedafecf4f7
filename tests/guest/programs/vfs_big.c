/* Larger files: sequential and random writes, appends by several processes, copies, checksums. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t checksum(const char *name)
{
    static unsigned char b[10007];
    uint64_t sum = 1469598103934665603u;
    int fd = open(name, O_RDONLY);
    ssize_t n;
    while ((n = read(fd, b, sizeof b)) > 0)
        for (ssize_t i = 0; i < n; i++)
            sum = (sum ^ b[i]) * 1099511628211u;
    close(fd);
    return sum;
}

int main(void)
{
    static char b[300000];
    struct stat st;
    for (size_t i = 0; i < sizeof b; i++)
        b[i] = i * 31 + (i >> 8);
    int fd = open("f", O_CREAT | O_RDWR, 0644);
    for (int i = 0; i < 20; i++)
        write(fd, b + i, 250000 + i);
    fstat(fd, &st);
    printf("%lld %llx\n", (long long)st.st_size, (unsigned long long)checksum("f"));
    uint32_t r = 1;
    for (int i = 0; i < 500; i++) {
        r = r * 1103515245 + 12345;
        pwrite(fd, b + r % 1000, r % 5000, r % 5000000);
    }
    fstat(fd, &st);
    printf("%lld %llx\n", (long long)st.st_size, (unsigned long long)checksum("f"));
    struct iovec v[3] = { { b, 70000 }, { b + 5, 1 }, { b + 9, 130000 } };
    printf("%zd\n", pwritev(fd, v, 3, 123457));
    printf("%llx\n", (unsigned long long)checksum("f"));
    ftruncate(fd, 1234567);
    ftruncate(fd, 2345678);
    printf("%llx\n", (unsigned long long)checksum("f"));
    int out = open("copy", O_CREAT | O_WRONLY, 0644);
    lseek(fd, 0, SEEK_SET);
    ssize_t n;
    while ((n = read(fd, b, sizeof b)) > 0)
        write(out, b, n);
    printf("copy %d\n", checksum("copy") == checksum("f"));
    for (int i = 0; i < 4; i++)
        if (fork() == 0) {
            int a = open("log", O_CREAT | O_WRONLY | O_APPEND, 0644);
            char line[32];
            for (int k = 0; k < 200; k++)
                write(a, line, sprintf(line, "%d %03d\n", i, k));
            _exit(0);
        }
    while (wait(0) > 0)
        ;
    FILE *f = fopen("log", "r");
    int lines = 0, good = 0, next[4] = { 0 }, i, k;
    while (fscanf(f, "%d %d\n", &i, &k) == 2) {
        lines++;
        good += k == next[i]++;
    }
    printf("lines %d in order %d\n", lines, good);
    return 0;
}
