/* CLONE_CHILD_CLEARTID by hand: the kernel clears the word and wakes it. */
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile uint32_t tid_word = 1;
static volatile int ran, tid_seen;

static int child(void *arg)
{
    tid_seen = syscall(SYS_gettid) == tid_word;
    usleep(20000);
    ran = 1;
    syscall(SYS_exit, 0);
    return 0;
}

int main(void)
{
    char *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 3; i++) {
        ran = 0;
        tid_word = 1;
        int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID |
                    CLONE_CHILD_SETTID | CLONE_PARENT_SETTID;
        uint32_t parent_word = 0;
        int tid = clone(child, stack + 65536, flags, NULL, &parent_word, NULL, (void *)&tid_word);
        printf("parent tid %d\n", parent_word == tid);
        uint32_t value;
        while ((value = tid_word) != 0)
            syscall(SYS_futex, &tid_word, FUTEX_WAIT, value, NULL, NULL, 0);
        printf("ran %d child tid %d\n", ran, tid_seen);
    }
    return 0;
}
