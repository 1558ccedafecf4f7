/* Counters: limits, semaphores, polling, blocking, bad arguments. */
#include "event_show.h"
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <sys/syscall.h>

int main(void)
{
    uint64_t v;
    char small[4];
    SHOW(eventfd(0, 0x8000));
    int e = eventfd(5, EFD_NONBLOCK | EFD_CLOEXEC);
    SHOW(fcntl(e, F_GETFD));
    SHOW(fcntl(e, F_GETFL) == (O_RDWR | O_NONBLOCK));
    show_poll("five", e, POLLIN | POLLOUT);
    SHOW(read(e, small, 4));
    SHOW(read(e, &v, 8));
    printf("%llu\n", (unsigned long long)v);
    SHOW(read(e, &v, 8));
    show_poll("zero", e, POLLIN | POLLOUT);
    v = -1;
    SHOW(write(e, &v, 8));
    v = -2;
    SHOW(write(e, &v, 8));
    show_poll("full", e, POLLIN | POLLOUT);
    v = 1;
    SHOW(write(e, &v, 8));
    v = 0;
    SHOW(write(e, &v, 8));
    SHOW(write(e, &v, 4));
    char wide[16] = {1};
    SHOW(read(e, wide, 16));
    SHOW(write(e, wide, 16));
    struct iovec iov[2] = {{&v, 4}, {(char *)&v + 4, 4}};
    SHOW(readv(e, iov, 2));
    SHOW(lseek(e, 3, SEEK_SET));
    SHOW(pread(e, &v, 8, 0));
    int s = eventfd(2, EFD_SEMAPHORE);
    SHOW(read(s, &v, 8));
    printf("%llu\n", (unsigned long long)v);
    SHOW(read(s, &v, 8));
    if (!fork()) {
        nap_ms(20);
        v = 3;
        write(s, &v, 8);
        _exit(0);
    }
    SHOW(read(s, &v, 8));
    printf("%llu\n", (unsigned long long)v);
    wait(NULL);
    int w = eventfd(0, 0);
    v = -2;
    write(w, &v, 8);
    if (!fork()) {
        nap_ms(20);
        read(w, &v, 8);
        _exit(0);
    }
    v = 9;
    SHOW(write(w, &v, 8));
    wait(NULL);
    SHOW(read(w, &v, 8));
    printf("%llu\n", (unsigned long long)v);
    SHOW(syscall(SYS_eventfd, 7));
    return 0;
}
