/* Order, end of file, EPIPE, FIONREAD, zero-length transfers, bad descriptors. */
#include "event_show.h"
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

static int pipes;
static void on_pipe(int s) { pipes++; }

int main(void)
{
    int p[2], n;
    char b[100];
    SHOW(pipe(p));
    SHOW(write(p[1], "hello", 5));
    SHOW(write(p[1], " world", 6));
    SHOW(ioctl(p[0], FIONREAD, &n));
    printf("n %d\n", n);
    SHOW(ioctl(p[1], FIONREAD, &n));
    SHOW(read(p[0], b, 3));
    SHOW(read(p[0], b, 100));
    printf("%.8s\n", b);
    SHOW(read(p[0], b, 0));
    SHOW(write(p[1], b, 0));
    SHOW(read(p[1], b, 1));
    SHOW(write(p[0], b, 1));
    SHOW(lseek(p[0], 0, SEEK_SET));
    SHOW(pread(p[0], b, 1, 0));
    SHOW(pwrite(p[1], b, 1, 0));
    SHOW(ftruncate(p[1], 0));
    SHOW(fsync(p[1]));
    struct stat st;
    SHOW(fstat(p[0], &st));
    printf("%o %ld %ld %ld\n", st.st_mode, (long)st.st_size, (long)st.st_blksize, (long)st.st_nlink);
    struct iovec v[3] = {{"ab", 2}, {"", 0}, {"cde", 3}};
    SHOW(writev(p[1], v, 3));
    struct iovec w[2] = {{b, 1}, {b + 1, 50}};
    SHOW(readv(p[0], w, 2));
    printf("%.5s\n", b);
    fcntl(p[0], F_SETFL, O_NONBLOCK);
    SHOW(read(p[0], b, 1));
    SHOW(fcntl(p[0], F_GETFL) == (O_RDONLY | O_NONBLOCK));
    SHOW(fcntl(p[1], F_GETFL) == O_WRONLY);
    write(p[1], "rest", 4);
    close(p[1]);
    SHOW(read(p[0], b, 100));
    SHOW(read(p[0], b, 100));
    close(p[0]);
    pipe(p);
    signal(SIGPIPE, on_pipe);
    close(p[0]);
    SHOW(write(p[1], "x", 1));
    SHOW(write(p[1], "", 0));
    printf("SIGPIPE %d\n", pipes);
    signal(SIGPIPE, SIG_IGN);
    SHOW(write(p[1], "x", 1));
    SHOW(pipe2(p, 0x1));
    SHOW(pipe2(p, O_CLOEXEC | O_NONBLOCK));
    SHOW(fcntl(p[0], F_GETFD));
    SHOW(syscall(22, (void *)8));
    close(p[0]);
    pid_t c = fork();
    if (!c) {
        signal(SIGPIPE, SIG_DFL);
        write(p[1], "x", 1);
        _exit(0);
    }
    waitpid(c, &n, 0);
    printf("killed by %d\n", WIFSIGNALED(n) ? WTERMSIG(n) : 0);
    return 0;
}
