/* set_tid_address(2) and PR_GET_TID_ADDRESS; the address is cleared and woken when the thread exits. */
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int word = 77;

static void *thread(void *arg) {
    long tid = syscall(SYS_set_tid_address, &word);
    int *at = NULL;
    prctl(PR_GET_TID_ADDRESS, &at);
    printf("%d %d\n", tid == syscall(SYS_gettid), at == &word);
    fflush(stdout);
    syscall(SYS_exit, 0);
    return arg;
}

int main(void) {
    pthread_t t;
    pthread_create(&t, NULL, thread, NULL);
    while (__atomic_load_n(&word, __ATOMIC_SEQ_CST) == 77) syscall(SYS_futex, &word, FUTEX_WAIT, 77, NULL);
    printf("%d\n", word);
    fflush(stdout);
    _exit(0);
}
