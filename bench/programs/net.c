/* net ROW COUNT: sockets between two processes of one sandbox.  Rows: unix-ping, tcp-ping (64 bytes there and back),
 * unix-bulk, tcp-bulk (writes of 64 KiB), accept (connections made and closed).  Prints what must come out. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char buffer[65536];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static size_t read_all(int fd, size_t length)
{
    size_t done = 0;
    while (done < length) {
        ssize_t n = read(fd, buffer, length - done < sizeof buffer ? length - done : sizeof buffer);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    return done;
}

static void write_all(int fd, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = write(fd, buffer + done, length - done);
        if (n <= 0)
            die("write");
        done += (size_t)n;
    }
}

static int listener(int is_tcp, struct sockaddr_storage *name, socklen_t *length)
{
    int fd = socket(is_tcp ? AF_INET : AF_UNIX, SOCK_STREAM, 0);
    memset(name, 0, sizeof *name);
    if (is_tcp) {
        struct sockaddr_in *in = (struct sockaddr_in *)name;
        in->sin_family = AF_INET;
        in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        *length = sizeof *in;
    } else {
        struct sockaddr_un *un = (struct sockaddr_un *)name;
        un->sun_family = AF_UNIX;
        *length = sizeof un->sun_family;  /* autobind */
    }
    if (bind(fd, (struct sockaddr *)name, *length) || listen(fd, 128))
        die("bind");
    *length = sizeof *name;
    getsockname(fd, (struct sockaddr *)name, length);
    return fd;
}

static int connected(int is_tcp, const struct sockaddr_storage *name, socklen_t length)
{
    int one = 1, fd = socket(is_tcp ? AF_INET : AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (const struct sockaddr *)name, length))
        die("connect");
    if (is_tcp)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    const char *row = argv[1];
    long count = atol(argv[2]), served = 0;
    int is_tcp = strncmp(row, "unix", 4) != 0, is_accept = !strcmp(row, "accept");
    size_t size = strstr(row, "bulk") ? sizeof buffer : 64;
    int status, one = 1;
    struct sockaddr_storage name;
    socklen_t length;
    int listening = listener(is_tcp, &name, &length);
    pid_t child = fork();
    if (child == 0) {
        if (is_accept) {
            for (long i = 0; i < count; i++) {
                int fd = connected(is_tcp, &name, length);
                read_all(fd, 1);  /* until the other side has closed it: the backlog does not fill */
                close(fd);
            }
            _exit(0);
        }
        int fd = connected(is_tcp, &name, length);
        for (long i = 0; i < count; i++) {
            write_all(fd, size);
            if (size == 64 && read_all(fd, size) != size)
                _exit(1);
        }
        _exit(0);
    }
    if (is_accept) {
        for (; served < count; served++) {
            int fd = accept(listening, NULL, NULL);
            if (fd < 0)
                die("accept");
            close(fd);
        }
    } else {
        int fd = accept(listening, NULL, NULL);
        if (is_tcp)
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        while (read_all(fd, size) == size) {
            served++;
            if (size == 64)
                write_all(fd, size);
        }
    }
    waitpid(child, &status, 0);
    printf("%ld served, status %d\n", served, status);
    return 0;
}
