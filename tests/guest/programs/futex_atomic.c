/* The kernel's changes of a futex word while other threads change it: no unlock, no bit and no count may be lost. */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 2000

static _Atomic unsigned word, counter, stop;
static long owned, bad;
static pthread_mutex_t *mutex;

static long futex(_Atomic unsigned *at, int op, unsigned value, void *time, void *other, unsigned last) {
    return syscall(SYS_futex, at, op, value, time, other, last);
}

/* Unlocks by the fast path whenever no thread waits, so that it meets the kernel's reads and writes. */
static void *locks(void *is_try) {
    unsigned tid = syscall(SYS_gettid);
    for (int i = 0; i < ROUNDS; i++) {
        unsigned none = 0, mine = tid;
        if (!atomic_compare_exchange_strong(&word, &none, tid)) {
            long result = futex(&word, (is_try ? FUTEX_TRYLOCK_PI : FUTEX_LOCK_PI) | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0);
            if (result) {
                bad += !is_try || errno != EAGAIN;
                continue;
            }
        }
        owned++;
        if (!atomic_compare_exchange_strong(&word, &mine, 0) &&
            futex(&word, FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0))
            bad++;
    }
    return NULL;
}

/* Adds by an instruction for as long as the other does by FUTEX_WAKE_OP. */
static void *counts(void *by_kernel) {
    long own = 0;
    if (by_kernel) {
        for (; own < ROUNDS; own++)
            futex(&word, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 1, (void *)1, &counter,
                  FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0xfff));
        stop = 1;
    }
    for (; !stop; own++)
        atomic_fetch_add(&counter, 1);
    return (void *)own;
}

static void *dies_with_it(void *unused) {
    pthread_mutex_lock(mutex);
    return NULL;
}

static void make_mutex(int protocol, int shared) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setprotocol(&attributes, protocol);
    pthread_mutexattr_setpshared(&attributes, shared);
    mutex = mmap(NULL, 4096, 3, MAP_ANONYMOUS | (shared ? MAP_SHARED : MAP_PRIVATE), -1, 0);
    pthread_mutex_init(mutex, &attributes);
}

static void *takes_over(void *unused) {
    int result = pthread_mutex_lock(mutex);
    if (result == EOWNERDEAD)
        pthread_mutex_consistent(mutex);
    pthread_mutex_unlock(mutex);
    return (void *)(long)(result == EOWNERDEAD);
}

static void robust(const char *name, int protocol, int shared, int by_process) {
    int inherited = 0;
    make_mutex(protocol, shared);
    for (int i = 0; i < 60; i++) {
        pthread_t dying, waiting[2];
        void *got;
        pid_t child = 0;
        if (by_process) {
            child = fork();
            if (child == 0) {
                pthread_mutex_lock(mutex);
                _exit(0);
            }
        } else {
            pthread_create(&dying, NULL, dies_with_it, NULL);
        }
        for (int k = 0; k < 2; k++)
            pthread_create(&waiting[k], NULL, takes_over, NULL);
        for (int k = 0; k < 2; k++)
            pthread_join(waiting[k], &got), inherited += (long)got;
        if (by_process)
            waitpid(child, NULL, 0);
        else
            pthread_join(dying, NULL);
        if (pthread_mutex_lock(mutex) == EOWNERDEAD) { /* those who waited were too early */
            pthread_mutex_consistent(mutex);
            inherited++;
        }
        pthread_mutex_unlock(mutex);
    }
    printf("robust %s: %d\n", name, inherited);
}

int main(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, locks, i == 3 ? &word : NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    printf("locks: word %x, bad %ld, enough %d\n", word, bad, owned >= 3 * ROUNDS);
    word = 0;
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, counts, i ? &word : NULL);
    long total = 0;
    for (int i = 0; i < 2; i++) {
        void *own;
        pthread_join(threads[i], &own);
        total += (long)own;
    }
    printf("counts: %d\n", (int)(counter - (unsigned)total));
    fflush(stdout);
    robust("private", PTHREAD_PRIO_NONE, 0, 0);
    robust("private pi", PTHREAD_PRIO_INHERIT, 0, 0);
    robust("shared", PTHREAD_PRIO_NONE, 1, 1);
    robust("shared pi", PTHREAD_PRIO_INHERIT, 1, 1);
    char *readonly = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_create(&threads[0], NULL, (void *(*)(void *))pause, NULL);
    printf("read-only: %ld", futex((void *)readonly, FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0));
    printf(" %d\n", errno);
    return 0;
}
