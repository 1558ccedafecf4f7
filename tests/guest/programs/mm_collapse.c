/* MADV_COLLAPSE and process_madvise(2) on memory that can and cannot be advised. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define SIZE (4UL << 20)

int main(void) {
    static const int advice[] = {3, 20, 21, 25, 99, -1};
    char *memory = mmap(NULL, SIZE, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *aligned = (char *)(((unsigned long)memory + (SIZE / 2 - 1)) & -(SIZE / 2));
    char *hole = mmap(NULL, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int self = syscall(SYS_pidfd_open, getpid(), 0);
    memset(memory, 1, SIZE);
    munmap(hole, 4096);
    struct iovec places[] = {{aligned, SIZE / 2}, {aligned + 4096, 4096}, {aligned + 1, 4096}, {hole, 8192}};
    for (int a = 0; a < 6; a++)
        for (int p = 0; p < 4; p++) {
            errno = 0;
            long one = advice[a] == 25 ? madvise(places[p].iov_base, places[p].iov_len, 25) : 0;
            int error = errno;
            errno = 0;
            long two = syscall(SYS_process_madvise, self, &places[p], 1, advice[a], 0);
            printf("%d %d: %ld %d %ld %d\n", advice[a], p, one, error, two, errno);
        }
    printf("%ld", syscall(SYS_process_madvise, self, places, 3, 20, 0));
    printf(" %ld", syscall(SYS_process_madvise, self, places, 1, 20, 1));
    printf(" %d", errno);
    printf(" %ld", syscall(SYS_process_madvise, -1, places, 1, 20, 0));
    printf(" %d\n", errno);
    return 0;
}
