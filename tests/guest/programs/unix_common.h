/* Helpers of the programs about sockets: they print results and errno names, and no value that differs by run. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/sockios.h>

static const char *err(long result) { return result < 0 ? strerrorname_np(errno) : "ok"; }

/* Print the result of a call. */
#define SHOW(call)                                                        \
    do {                                                                  \
        errno = 0;                                                        \
        long result_ = (long)(call);                                      \
        if (result_ < 0)                                                  \
            printf("%s = %ld %s\n", #call, result_, err(result_));       \
        else                                                              \
            printf("%s = %ld\n", #call, result_);                        \
    } while (0)

/* Print only whether it worked. */
#define TRY(call)                                                         \
    do {                                                                  \
        errno = 0;                                                        \
        printf("%s: %s\n", #call, err((long)(call)));                    \
    } while (0)

static __attribute__((unused)) void events(const char *what, int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP};
    int n = poll(&p, 1, 0);
    printf("%s: %d%s%s%s%s%s%s\n", what, n, p.revents & POLLIN ? " IN" : "", p.revents & POLLPRI ? " PRI" : "",
           p.revents & POLLOUT ? " OUT" : "", p.revents & POLLERR ? " ERR" : "", p.revents & POLLHUP ? " HUP" : "",
           p.revents & POLLRDHUP ? " RDHUP" : "");
}

static __attribute__((unused)) socklen_t abstract(struct sockaddr_un *a, const char *name) {
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    memcpy(a->sun_path + 1, name, strlen(name));
    return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
}

static __attribute__((unused)) socklen_t named(struct sockaddr_un *a, const char *path) {
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    strcpy(a->sun_path, path);
    return sizeof *a;
}
