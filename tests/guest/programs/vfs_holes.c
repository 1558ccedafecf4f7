/* Sparse files: holes, SEEK_DATA and SEEK_HOLE, punching, blocks, very large sizes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void map(int fd)
{
    struct stat st;
    fstat(fd, &st);
    fsync(fd); /* the host allocates blocks late */
    off_t at = 0;
    printf("size %lld:", (long long)st.st_size);
    while (at < st.st_size) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0) {
            printf(" hole to the end (%s)", strerror(errno));
            break;
        }
        off_t hole = lseek(fd, data, SEEK_HOLE);
        printf(" [%lld,%lld)", (long long)data, (long long)hole);
        at = hole;
    }
    printf("\n");
}

int main(void)
{
    char page[4096], back[4096];
    memset(page, 'x', sizeof page);
    int fd = open("f", O_CREAT | O_RDWR, 0644);
    map(fd);
    pwrite(fd, page, 4096, 65536);
    map(fd);
    pwrite(fd, page, 4096, 1 << 20);
    pwrite(fd, page, 4096, 0);
    map(fd);
    printf("zeros %d\n", pread(fd, back, 4096, 8192) == 4096 && !back[0] && !memcmp(back, back + 1, 4095));
    printf("punch %d\n", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 65536, 4096));
    map(fd);
    printf("punch part %d\n", fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 200));
    pread(fd, back, 4096, 0);
    int zeros = 0;
    for (int i = 0; i < 4096; i++)
        zeros += back[i] == 0;
    printf("zeroed %d first %d\n", zeros, zeros ? (int)((char *)memchr(back, 0, 4096) - back) : -1);
    printf("truncate %d\n", ftruncate(fd, 10LL << 40));
    map(fd);
    pwrite(fd, page, 4096, 5LL << 40);
    map(fd);
    printf("end %zd\n", pread(fd, back, 10, (10LL << 40) - 3));
    printf("beyond %lld %d\n", (long long)lseek(fd, 10LL << 40, SEEK_DATA), errno == ENXIO);
    printf("shrink %d\n", ftruncate(fd, 100));
    map(fd);
    printf("grow %d\n", ftruncate(fd, 200));
    pread(fd, back, 200, 0);
    printf("tail %d %d\n", back[99], back[100]);
    struct stat st;
    fstat(fd, &st);
    printf("blocks %lld\n", (long long)st.st_blocks);
    return 0;
}
