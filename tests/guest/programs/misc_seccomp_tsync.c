/* SECCOMP_FILTER_FLAG_TSYNC: the other threads get the filter, unless one has installed another filter. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_barrier_t one, two, three;
static int tid;

static long on_call(int number, unsigned action, int flags) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    errno = 0;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static void *thread(void *arg) {
    tid = syscall(SYS_gettid);
    pthread_barrier_wait(&one);
    pthread_barrier_wait(&two);
    errno = 0;
    printf("thread %ld", syscall(SYS_getpriority, 0, 0));
    printf(" %d nnp %d\n", errno, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    on_call(SYS_sched_yield, SECCOMP_RET_ERRNO | 1, 0);
    pthread_barrier_wait(&three);
    pthread_barrier_wait(&one);
    return arg;
}

int main(void) {
    pthread_t t;
    pthread_barrier_init(&one, NULL, 2);
    pthread_barrier_init(&two, NULL, 2);
    pthread_barrier_init(&three, NULL, 2);
    pthread_create(&t, NULL, thread, NULL);
    pthread_barrier_wait(&one);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    printf("tsync %ld\n", on_call(SYS_getpriority, SECCOMP_RET_ERRNO | 33, SECCOMP_FILTER_FLAG_TSYNC));
    pthread_barrier_wait(&two);
    pthread_barrier_wait(&three);
    printf("diverged %d\n", on_call(SYS_getpriority, SECCOMP_RET_ERRNO | 34, SECCOMP_FILTER_FLAG_TSYNC) == tid);
    printf("diverged %ld", on_call(SYS_getpriority, SECCOMP_RET_ERRNO | 34, SECCOMP_FILTER_FLAG_TSYNC | 16));
    printf(" %d\n", errno);
    pthread_barrier_wait(&one);
    pthread_join(t, NULL);
    return 0;
}
