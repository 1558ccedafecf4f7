/* The bare call changes one thread; the library's wrapper changes all of them. */
#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *bare(void *arg) {
    printf("bare %ld, here %ld\n", syscall(SYS_setresuid, 1000, 1000, 1000), syscall(SYS_geteuid));
    return arg;
}

static void *wrapped(void *arg) {
    printf("wrapped %d, here %ld\n", setresuid(2000, 2000, 2000), syscall(SYS_geteuid));
    return arg;
}

int main(void) {
    if (geteuid() != 0) return 0;
    pthread_t thread;
    pthread_create(&thread, NULL, bare, NULL);
    pthread_join(thread, NULL);
    printf("main %ld\n", syscall(SYS_geteuid));
    pthread_create(&thread, NULL, wrapped, NULL);
    pthread_join(thread, NULL);
    printf("main %ld\n", syscall(SYS_geteuid));
    return 0;
}
