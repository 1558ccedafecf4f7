/* Futex operations on words that cannot be read or written, private and shared. */
#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void show(const char *name, long result) { printf(" %s %ld/%d", name, result, result < 0 ? errno : 0); }

static char *map(int prot, int flags) { return mmap(NULL, 4096, prot, flags | MAP_ANONYMOUS, -1, 0); }

int main(void) {
    static const char *names[] = {"unmapped", "none", "shared none", "good", "readonly", "shared", "shared readonly"};
    char *words[] = {map(3, MAP_PRIVATE), map(0, MAP_PRIVATE), map(0, MAP_SHARED), map(3, MAP_PRIVATE),
                     map(1, MAP_PRIVATE), map(3, MAP_SHARED),  map(1, MAP_SHARED)};
    char *good = map(3, MAP_PRIVATE);
    munmap(words[0], 4096);
    for (int i = 0; i < 7; i++)
        for (int private = 0; private < 2; private++) {
            int flag = private ? FUTEX_PRIVATE_FLAG : 0;
            char *word = words[i];
            struct timespec soon = {0, 1};
            printf("%s %d:", names[i], private);
            show("wake", syscall(SYS_futex, word, FUTEX_WAKE | flag, 1));
            show("bits", syscall(SYS_futex, word, FUTEX_WAKE_BITSET | flag, 1, 0, 0, 1));
            show("from", syscall(SYS_futex, word, FUTEX_REQUEUE | flag, 1, 1, good, 0));
            show("to", syscall(SYS_futex, good, FUTEX_REQUEUE | flag, 1, 1, word, 0));
            show("cmp from", syscall(SYS_futex, word, FUTEX_CMP_REQUEUE | flag, 1, 1, good, 0));
            show("cmp to", syscall(SYS_futex, good, FUTEX_CMP_REQUEUE | flag, 1, 1, word, 0));
            show("wait", syscall(SYS_futex, word, FUTEX_WAIT | flag, 0, &soon, 0, 0));
            show("op1", syscall(SYS_futex, word, FUTEX_WAKE_OP | flag, 1, 1, good, 0));
            show("op2", syscall(SYS_futex, good, FUTEX_WAKE_OP | flag, 1, 1, word, 0));
            show("wake2", syscall(454, word, ~0U, 1, FUTEX2_SIZE_U32 | flag));
            show("none", syscall(454, word, ~0U, 0, FUTEX2_SIZE_U32 | flag));
            show("lock", syscall(SYS_futex, word, FUTEX_LOCK_PI | flag, 0, NULL, 0, 0));
            show("unlock", syscall(SYS_futex, word, FUTEX_UNLOCK_PI | flag, 0, NULL, 0, 0));
            puts("");
        }
    return 0;
}
