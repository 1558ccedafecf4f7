/* getrandom(2) and /dev/urandom. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#define T(call) do { errno = 0; long r_ = (call); printf("%s = %ld %d\n", #call, r_, r_ < 0 ? errno : 0); } while (0)

int main(void) {
    static unsigned char a[100000], b[100000];
    T(getrandom(a, 256, 0));
    T(getrandom(b, 256, GRND_NONBLOCK));
    printf("differ %d\n", memcmp(a, b, 256) != 0);
    T(getrandom(a, sizeof a, 0));
    int seen[256] = {0}, kinds = 0;
    for (unsigned i = 0; i < sizeof a; i++) kinds += !seen[a[i]]++;
    printf("kinds %d\n", kinds);
    T(getrandom(a, 0, 0));
    T(getrandom(a, 1, GRND_RANDOM));
    T(getrandom(a, 1, 4));
    T(syscall(SYS_getrandom, a, 1, 8));
    T(syscall(SYS_getrandom, a, 1, 6));
    T(syscall(SYS_getrandom, 8, 16, 0));
    T(getentropy(a, 257));
    int fd = open("/dev/urandom", O_RDONLY);
    T(read(fd, a, 1000));
    return 0;
}
