/* capget(2) and capset(2): versions, dropping, never gaining. */
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct __user_cap_header_struct head;
static struct __user_cap_data_struct data[2], saved[2];

static long get(void) { return syscall(SYS_capget, &head, data); }
static long set(void) { errno = 0; return syscall(SYS_capset, &head, data); }

int main(void) {
    head.version = 0;
    printf("%ld %d", syscall(SYS_capget, &head, NULL), head.version == _LINUX_CAPABILITY_VERSION_3);
    head.version = 7;
    printf(" %ld", get());
    printf(" %d %d\n", errno, head.version == _LINUX_CAPABILITY_VERSION_3);
    head.pid = -1;
    printf("%ld", get());
    printf(" %d\n", errno);
    head.pid = 0x3ffffff;
    errno = 0;
    printf("%ld", get());
    printf(" %d\n", errno);
    head.pid = 0;
    printf("%ld\n", get());
    printf("subset %d\n", !(data[0].effective & ~data[0].permitted));
    memcpy(saved, data, sizeof data);
    head.version = _LINUX_CAPABILITY_VERSION_1;
    memset(data, 0xff, sizeof data);
    printf("v1 %ld", get());
    printf(" %d %d\n", data[0].permitted == saved[0].permitted, data[1].permitted == 0xffffffff);
    head.version = _LINUX_CAPABILITY_VERSION_3;
    memcpy(data, saved, sizeof data);
    data[0].effective = 0;
    data[1].effective = 0;
    printf("lower %ld\n", set());
    get();
    printf("effective %x permitted kept %d\n", data[0].effective, data[0].permitted == saved[0].permitted);
    data[0].permitted = data[1].permitted = 0;
    printf("drop %ld\n", set());
    memcpy(data, saved, sizeof data);
    data[0].permitted |= 1;
    printf("gain %ld %d\n", set(), errno);
    memset(data, 0, sizeof data);
    data[0].effective = 1;
    printf("effective without permitted %ld %d\n", set(), errno);
    memset(data, 0, sizeof data);
    data[0].inheritable = 1;
    printf("inheritable %ld %d\n", set(), errno);
    head.pid = 1;
    printf("other %ld %d\n", set(), errno);
    printf("fault %ld", syscall(SYS_capget, 8, data));
    printf(" %d\n", errno);
    return 0;
}
