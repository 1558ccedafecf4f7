#include "file_common.h"

int main(void)
{
    struct stat st;
    int fd = open("f", O_RDWR | O_CREAT, 0600), ro = open("f", O_RDONLY);
    char b[10];
    T(fallocate(fd, 0, 0, 10000));
    fstat(fd, &st);
    printf("size %ld\n", (long)st.st_size);
    T(fallocate(fd, FALLOC_FL_KEEP_SIZE, 20000, 10000));
    fstat(fd, &st);
    printf("size %ld\n", (long)st.st_size);
    T(pwrite(fd, "abcdefgh", 8, 4092));
    T(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096));
    T(pread(fd, b, 8, 4092));
    printf("%.4s %d %d\n", b, b[4], b[7]);
    T(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 10));
    T(fallocate(fd, 0, -1, 10));
    T(fallocate(fd, 0, 0, 0));
    T(fallocate(fd, 0, 0, -5));
    T(fallocate(fd, 0x1000, 0, 10));
    T(fallocate(fd, 0, LONG_MAX, 10));
    T(fallocate(ro, 0, 0, 10));
    T(fallocate(-1, 0, 0, 10));
    int p[2];
    pipe(p);
    T(fallocate(p[1], 0, 0, 10));
    T(fallocate(open(".", O_RDONLY), 0, 0, 10));
    T(posix_fallocate(fd, 0, 50000));
    fstat(fd, &st);
    printf("size %ld\n", (long)st.st_size);
    return 0;
}
