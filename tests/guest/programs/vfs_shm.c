/* POSIX shared memory in /dev/shm. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
    struct stat st;
    struct statfs fs;
    int fd = shm_open("/cloche-test", O_CREAT | O_EXCL | O_RDWR, 0600);
    printf("again %d %s\n", shm_open("/cloche-test", O_CREAT | O_EXCL | O_RDWR, 0600), strerror(errno));
    ftruncate(fd, 1 << 20);
    fstat(fd, &st);
    printf("%lld %o\n", (long long)st.st_size, st.st_mode);
    fstatfs(fd, &fs);
    printf("%lx\n", (long)fs.f_type);
    int *m = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (int i = 0; i < 4; i++)
        if (fork() == 0) {
            int other = shm_open("/cloche-test", O_RDWR, 0);
            int *n = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, other, 0);
            for (int k = 0; k < 10000; k++)
                __atomic_fetch_add(n, 1, __ATOMIC_SEQ_CST);
            n[1000 * (i + 1)] = i + 1;
            _exit(0);
        }
    while (wait(0) > 0)
        ;
    printf("%d %d %d %d %d\n", m[0], m[1000], m[2000], m[3000], m[4000]);
    int v;
    pread(fd, &v, 4, 4000 * 4);
    printf("read %d\n", v);
    fstat(fd, &st);
    printf("blocks %lld\n", (long long)st.st_blocks);
    printf("unlink %d\n", shm_unlink("/cloche-test"));
    printf("gone %d %s\n", shm_open("/cloche-test", O_RDWR, 0), strerror(errno));
    m[0]++;
    pread(fd, &v, 4, 0);
    printf("still %d\n", v);
    return 0;
}
