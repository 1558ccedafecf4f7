/* Shared futexes: across fork, between two mappings of one file; private and shared ones do not meet. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long futex(void *addr, int op, unsigned val, void *timeout)
{
    return syscall(SYS_futex, addr, op, val, timeout, NULL, 0);
}

static uint32_t private_word;
static volatile int result = -1;

static void *waiter(void *arg)
{
    result = futex(&private_word, FUTEX_WAIT_PRIVATE, 0, NULL);
    return NULL;
}

int main(void)
{
    uint32_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status;
    pid_t child = fork();
    if (!child) {
        while (shared[0] == 0)
            futex(&shared[0], FUTEX_WAIT, 0, NULL);
        shared[1] = 77;
        futex(&shared[1], FUTEX_WAKE, 1, NULL);
        _exit(0);
    }
    usleep(20000);
    shared[0] = 1;
    printf("woken at most one %d\n", futex(&shared[0], FUTEX_WAKE, 1, NULL) <= 1);
    while (shared[1] == 0)
        futex(&shared[1], FUTEX_WAIT, 0, NULL);
    printf("answer %u\n", shared[1]);
    waitpid(child, &status, 0);
    char name[] = "futex_file";
    int fd = open(name, O_RDWR | O_CREAT, 0600);
    ftruncate(fd, 8192);
    uint32_t *one = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint32_t *two = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
    unlink(name);
    child = fork();
    if (!child) {
        long r = futex(two + 3, FUTEX_WAIT, 0, NULL);
        _exit(r == 0 ? 0 : 1);
    }
    long n = 0;
    while (!n) {
        n = futex(one + 1024 + 3, FUTEX_WAKE, 1, NULL);
        if (!n)
            usleep(1000);
    }
    waitpid(child, &status, 0);
    printf("two mappings of a file: woken %ld child %d\n", n, status);
    /* A private copy is another word after fork. */
    child = fork();
    if (!child) {
        struct timespec t = {0, 30000000};
        errno = 0;
        long r = futex(&private_word, FUTEX_WAIT, 0, &t);
        _exit(r == -1 && errno == ETIMEDOUT ? 0 : 1);
    }
    n = 0;
    while (waitpid(child, &status, WNOHANG) == 0) {
        n += futex(&private_word, FUTEX_WAKE, 1, NULL);
        usleep(1000);
    }
    printf("private memory after fork: woken %ld child %d\n", n, status);
    pthread_t t;
    pthread_create(&t, NULL, waiter, NULL);
    usleep(50000);
    printf("shared wake of a private wait %ld\n", futex(&private_word, FUTEX_WAKE, 1, NULL));
    while (result < 0) {
        futex(&private_word, FUTEX_WAKE_PRIVATE, 1, NULL);
        usleep(1000);
    }
    pthread_join(t, NULL);
    printf("private wake %d\n", result);
    return 0;
}
