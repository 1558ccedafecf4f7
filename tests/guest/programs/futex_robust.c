/* Robust mutexes: owners that exit, are killed or exec; in threads and in processes. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static pthread_mutex_t *m;
static int *ready;

static void *owner(void *arg)
{
    pthread_mutex_lock(m);
    return NULL;
}

static void check(const char *name)
{
    int r = pthread_mutex_lock(m);
    printf("%s: dead owner %d", name, r == EOWNERDEAD);
    if (r == EOWNERDEAD)
        printf(" consistent %d", pthread_mutex_consistent(m));
    printf(" unlock %d\n", pthread_mutex_unlock(m));
}

int main(int argc, char **argv)
{
    if (argc > 1)
        _exit(0);
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    m = (void *)shared;
    ready = (void *)(shared + 2048);
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(m, &a);
    pthread_t t;
    pthread_create(&t, NULL, owner, NULL);
    pthread_join(t, NULL);
    check("thread");
    for (int how = 0; how < 4; how++) {
        *ready = 0;
        pid_t child = fork();
        if (!child) {
            pthread_mutex_lock(m);
            *(volatile int *)ready = 1;
            if (how == 0)
                _exit(0);
            if (how == 1)
                for (;;)
                    pause();
            if (how == 2)
                execl("/proc/self/exe", argv[0], "x", NULL);
            /* 3: the parent waits for the mutex when the owner dies. */
            usleep(50000);
            _exit(0);
        }
        while (!*(volatile int *)ready)
            usleep(1000);
        if (how == 1)
            kill(child, SIGKILL);
        if (how != 3)
            waitpid(child, NULL, 0);
        check(how == 0 ? "exit" : how == 1 ? "kill" : how == 2 ? "exec" : "waiter is woken");
        if (how == 3)
            waitpid(child, NULL, 0);
    }
    void *head = NULL;
    size_t size = 0;
    printf("get_robust_list %ld", syscall(SYS_get_robust_list, 0, &head, &size));
    printf(" size %zu set %d\n", size, head != NULL);
    errno = 0;
    printf("bad size %ld %d\n", syscall(SYS_set_robust_list, head, size + 1), errno);
    printf("nobody %ld", syscall(SYS_get_robust_list, 0x3fffff, &head, &size));
    printf(" %d\n", errno);
    return 0;
}
