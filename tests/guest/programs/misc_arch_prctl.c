/* arch_prctl(2): the bases of FS and GS. */
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#define T(code, addr) do { errno = 0; long r_ = syscall(SYS_arch_prctl, code, addr); printf("%s = %ld %d\n", #code, r_, r_ < 0 ? errno : 0); } while (0)

static unsigned long area[4] = {11, 22, 33, 44};

int main(void) {
    unsigned long fs = 0, gs = 1, self;
    T(0x1003, &fs); /* GET_FS */
    asm("mov %%fs:0, %0" : "=r"(self));
    printf("fs is the thread's %d\n", fs == self);
    T(0x1001, area); /* SET_GS */
    T(0x1004, &gs);
    asm("mov %%gs:8, %0" : "=r"(self));
    printf("%d %lu\n", gs == (unsigned long)area, self);
    T(0x1001, 0);
    T(0x1002, fs);
    T(0x1001, 0x800000000000);
    T(0x1002, -1L);
    T(0x1003, 8);
    T(0x1234, 0);
    T(0x1011, 0);
    return 0;
}
