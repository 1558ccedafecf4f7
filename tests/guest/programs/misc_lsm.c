/* lsm_list_modules, lsm_get_self_attr, lsm_set_self_attr: the answers that are the same on every kernel. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *err(long r) { return r < 0 ? strerrorname_np(errno) : "ok"; }

int main(void)
{
    uint64_t ids[64] = {0}, context[64] = {0};
    uint32_t size = sizeof ids;
    long n = syscall(461, ids, &size, 0);
    int has_capability = 0;
    for (long i = 0; i < n; i++)
        has_capability |= ids[i] == 100;
    printf("list %d size %d capability %d\n", n > 0, size == n * 8, has_capability);
    size = 4;
    printf("short %s", err(syscall(461, ids, &size, 0)));
    printf(" %d\n", size == n * 8);
    printf("flags %s\n", err(syscall(461, ids, &size, 1)));
    printf("size address %s\n", err(syscall(461, ids, NULL, 0)));
    size = sizeof context;
    printf("get nothing %s\n", err(syscall(459, 0, context, &size, 0)));
    printf("get without size %s\n", err(syscall(459, 100, context, NULL, 0)));
    printf("get flags %s\n", err(syscall(459, 100, context, &size, 2)));
    printf("get single %s\n", err(syscall(459, 100, context, &size, 1)));
    printf("set flags %s\n", err(syscall(460, 100, context, 32, 1)));
    printf("set short %s\n", err(syscall(460, 100, context, 16, 0)));
    printf("set long %s\n", err(syscall(460, 100, context, 5000, 0)));
    context[2] = 16;
    printf("set inconsistent %s\n", err(syscall(460, 100, context, 32, 0)));
    return 0;
}
