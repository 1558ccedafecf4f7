/* membarrier(2): registration, errors, inheritance, and that it orders stores and loads of threads. */
#include <errno.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long mb(int command, int flags)
{
    long r = syscall(SYS_membarrier, command, flags, 0);
    return r < 0 ? -errno : r;
}

static void show(const char *name, long r)
{
    if (r < 0)
        printf("%s: %s\n", name, strerrorname_np(-r));
    else
        printf("%s: %ld\n", name, r);
}

static volatile int x, y, seen, turn, done;

static void *fast_side(void *arg)
{
    for (int t = 0;;) {
        while (turn == t)
            ;
        t = turn;
        if (t < 0)
            return NULL;
        x = 1;
        __asm__ volatile("" ::: "memory");
        seen = y;
        __asm__ volatile("" ::: "memory");
        done = t;
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        show("registrations after execve", mb(MEMBARRIER_CMD_GET_REGISTRATIONS, 0));
        return 0;
    }
    long all = MEMBARRIER_CMD_GLOBAL | MEMBARRIER_CMD_GLOBAL_EXPEDITED | MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED |
               MEMBARRIER_CMD_PRIVATE_EXPEDITED | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED |
               MEMBARRIER_CMD_GET_REGISTRATIONS;
    show("query", mb(MEMBARRIER_CMD_QUERY, 0) & all);
    show("query with flags", mb(MEMBARRIER_CMD_QUERY, 1));
    show("unregistered", mb(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0));
    show("global", mb(MEMBARRIER_CMD_GLOBAL, 0));
    show("global expedited", mb(MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0));
    show("registrations", mb(MEMBARRIER_CMD_GET_REGISTRATIONS, 0));
    show("register global", mb(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0));
    show("register", mb(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0));
    show("register with flags", mb(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 1));
    show("registrations", mb(MEMBARRIER_CMD_GET_REGISTRATIONS, 0));
    show("private", mb(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0));
    show("unknown", mb(1 << 12, 0));
    show("negative", mb(-1, 0));
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        show("registrations after fork", mb(MEMBARRIER_CMD_GET_REGISTRATIONS, 0));
        show("private", mb(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0));
        fflush(stdout);
        execl("/proc/self/exe", argv[0], "x", NULL);
    }
    waitpid(child, NULL, 0);
    /* Dekker: one side fences by membarrier, the other not at all. */
    pthread_t t;
    int both = 0;
    pthread_create(&t, NULL, fast_side, NULL);
    for (int i = 1; i <= 20000; i++) {
        x = y = done = 0;
        __sync_synchronize();
        turn = i;
        y = 1;
        mb(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0);
        int mine = x;
        while (done != i)
            ;
        both += !mine && !seen;
    }
    turn = -1;
    pthread_join(t, NULL);
    printf("both missed: %d\n", both);
    return 0;
}
