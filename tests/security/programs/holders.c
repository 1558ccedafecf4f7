/* Each kind tries to keep the sentry busy with one call, as long as the default limits allow; meanwhile another process
 * makes short calls.  The sentry's own meter judges (CLOCHE_STRICT): a handler that held the loop too long ends all. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1L << 20)
#define PAGE 4096L

static char *memory(long bytes)
{
    return mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static int file(const char *name)
{
    return open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
}

/* The result of a call, or -errno. */
static long attack(const char *kind)
{
    struct rlimit many = {1 << 17, 1 << 17};
    long result = 0;
    if (!strcmp(kind, "fallocate")) { /* no answer before: one step for each 64 KiB of 16 TiB */
        int fd = file("/tmp/big"), m = memfd_create("m", 0);
        result = fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 1L << 44) ? -errno : 0;
        fallocate(m, FALLOC_FL_ZERO_RANGE, 0, 1L << 60);
        fallocate(m, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1L << 60);
        ftruncate(m, 1L << 60);
        fallocate(m, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1L << 60);
        result = 0;
    } else if (!strcmp(kind, "random")) {
        char *m = memory(256 * MIB);
        result = read(open("/dev/urandom", O_RDONLY), m, 256 * MIB);
        result += getrandom(m, 256 * MIB, 0);
    } else if (!strcmp(kind, "zero")) {
        result = read(open("/dev/zero", O_RDONLY), memory(512 * MIB), 512 * MIB);
    } else if (!strcmp(kind, "vectors")) {
        struct iovec v[512], w[512];
        char *m = memory(MIB);
        int fd = file("/tmp/sparse");
        ftruncate(fd, 512 * MIB);
        for (int i = 0; i < 512; i++)
            w[i] = v[i] = (struct iovec){m, MIB};
        result = preadv(fd, v, 512, 0);
        result += process_vm_readv(getpid(), v, 512, w, 512, 0);
    } else if (!strcmp(kind, "between")) {
        int from = file("/tmp/from"), to = file("/tmp/to"), null = open("/dev/null", O_WRONLY);
        ftruncate(from, 1024 * MIB);
        result = sendfile(null, from, NULL, 1024 * MIB);
        loff_t at = 0, out = 0;
        result += copy_file_range(from, &at, to, &out, 64 * MIB, 0);
    } else if (!strcmp(kind, "pages")) { /* they go back to the host one by one */
        int fd = file("/tmp/pages"), m = memfd_create("m", 0);
        char *from = memory(384 * MIB);
        result = write(fd, from, 384 * MIB) + write(m, from, 384 * MIB);
        fallocate(m, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 384 * MIB);
        unlink("/tmp/pages");
        close(fd);
        write(m, from, 384 * MIB);
        ftruncate(m, MIB);
        fallocate(m, 0, 0, 60 * MIB);
    } else if (!strcmp(kind, "splice") || !strcmp(kind, "sendfile")) {
        int p[2];
        pipe(p);
        result = *kind == 's' && kind[1] == 'p' ? splice(0, NULL, p[1], NULL, 4096, 0) : sendfile(p[1], 0, NULL, 4096);
    } else if (!strcmp(kind, "locks")) {
        int fd = file("/tmp/locks");
        for (int i = 0; i < 3000; i++) {
            struct flock l = {F_WRLCK, SEEK_SET, i * 2, 1};
            result += fcntl(fd, F_SETLK, &l) == 0;
        }
    } else if (!strcmp(kind, "areas")) {
        int n = 50000;
        char *m = mmap(0, n * 4096L, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (int i = 0; i < n; i += 2)
            mprotect(m + i * 4096L, 4096, PROT_READ | PROT_WRITE);
        pid_t child = fork();
        if (!child)
            _exit(0);
        waitpid(child, NULL, 0);
        result = mprotect(m, n * 4096L, PROT_READ) == 0;
        for (int i = 0; i < n; i += 2)
            mprotect(m + i * 4096L, 4096, PROT_READ | PROT_WRITE);
        result += madvise(m, n * 4096L, MADV_DONTNEED) == 0;
        result += madvise(m, n * 4096L, MADV_DONTFORK) == 0;
        child = fork();
        if (!child)
            _exit(0);
        waitpid(child, NULL, 0);
        result += munmap(m, n * 4096L) == 0;
        m = mmap(0, n * 4096L, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (int i = 0; i < n; i += 2)
            mprotect(m + i * 4096L, 4096, PROT_READ | PROT_WRITE);
        result += mmap(m, n * 4096L, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == m;
    } else if (!strcmp(kind, "remap")) {
        int n = 40000;
        char *m = mmap(0, n * PAGE, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        for (int round = 0; round < 2; round++)
            for (int i = 0; i < n; i += 2)
                mprotect(m + i * PAGE, PAGE, round ? PROT_READ : PROT_READ | PROT_WRITE);
        result = remap_file_pages(m, n * PAGE, 0, 0, 0) == 0;
    } else if (!strcmp(kind, "poll")) {
        setrlimit(RLIMIT_NOFILE, &many);
        getrlimit(RLIMIT_NOFILE, &many);
        long n = many.rlim_cur;
        struct pollfd *p = calloc(n, sizeof *p);
        for (long i = 0; i < n; i++)
            p[i] = (struct pollfd){0, POLLPRI, 0};
        result = poll(p, n, 0) >= 0;
        dup2(0, n - 1);
        unsigned char *set = calloc(n / 8 + 8, 1);
        for (long fd = 3; fd < n - 1 && fd < 20000; fd++)
            dup2(0, fd);
        for (long fd = 3; fd < n && fd < 20000; fd++)
            set[fd / 8] |= 1 << fd % 8;
        struct timeval none = {0, 0};
        result += syscall(SYS_select, (int)n, NULL, NULL, set, &none) >= 0;
    } else if (!strcmp(kind, "polls")) { /* that waits, too, and is woken */
        setrlimit(RLIMIT_NOFILE, &many);
        getrlimit(RLIMIT_NOFILE, &many);
        struct pollfd *p = calloc(many.rlim_cur, sizeof *p);
        int pair[2];
        pipe(pair);
        for (unsigned long i = 0; i < many.rlim_cur; i++)
            p[i] = (struct pollfd){pair[0], POLLIN, 0};
        result = poll(p, many.rlim_cur, 1);
        if (!fork()) {
            usleep(1);
            _exit(write(pair[1], "x", 1) != 1);
        }
        result += poll(p, many.rlim_cur, -1) == (long)many.rlim_cur;
    } else if (!strcmp(kind, "closing")) {
        setrlimit(RLIMIT_NOFILE, &many);
        int pair[2];
        while (pipe(pair) == 0 && pair[1] < 40000)
            ;
        result = syscall(SYS_close_range, 3, ~0U, 0);
    } else if (!strcmp(kind, "listing")) {
        setrlimit(RLIMIT_NOFILE, &many);
        while (dup(0) >= 0 && result < 60000)
            result++;
        DIR *d = opendir("/proc/self/fd");
        for (result = 0; readdir(d);)
            result++;
    } else if (!strcmp(kind, "sockets")) {
        setrlimit(RLIMIT_NOFILE, &many);
        while (result < 30000 && socket(AF_UNIX, SOCK_DGRAM, 0) >= 0)
            result++;
        int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG), size;
        struct {
            struct nlmsghdr head;
            struct unix_diag_req request;
        } ask = {{sizeof ask, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP}, {AF_UNIX, 0, 0, ~0U}};
        send(fd, &ask, sizeof ask, 0);
        static char answer[1 << 16];
        do
            size = recv(fd, answer, sizeof answer, 0);
        while (size > 0 && ((struct nlmsghdr *)answer)->nlmsg_type != NLMSG_DONE);
    } else if (!strcmp(kind, "children")) { /* orphans, and the end of a namespace */
        int all[2];
        char c;
        pipe(all);
        if (fork() == 0) {
            if (unshare(CLONE_NEWUSER | CLONE_NEWPID) == 0 && fork() == 0) {
                for (int i = 0; i < 500; i++)
                    if (fork() == 0)
                        for (;;)
                            pause();
                write(all[1], "x", 1);
                pause();
            }
            close(all[1]);
            read(all[0], &c, 1);
            kill(0, 0);
            _exit(0);
        }
        close(all[1]);
        wait(NULL);
        if (fork() == 0) {
            for (int i = 0; i < 500; i++)
                if (fork() == 0) {
                    pause();
                    _exit(0);
                }
            _exit(0);
        }
        wait(NULL);
        result = 1;
    } else if (!strcmp(kind, "killing")) {
        setpgid(0, 0);
        signal(SIGTERM, SIG_IGN);
        for (int i = 0; i < 1000; i++)
            if (fork() == 0) {
                signal(SIGTERM, SIG_DFL);
                for (;;)
                    pause();
            }
        for (int i = 0; i < 30; i++)
            result += kill(0, 0);
        kill(0, SIGTERM);
        kill(0, SIGKILL); /* processes that were born late; this one last */
    } else if (!strcmp(kind, "texts")) { /* long files of /proc, and reads far from their beginning */
        setrlimit(RLIMIT_NOFILE, &many);
        static char text[MIB];
        for (int i = 0; i < 40000; i++)
            socket(i % 4 ? AF_UNIX : AF_INET, SOCK_DGRAM, 0);
        close(100); /* for the files */
        const char *names[] = {"/proc/net/unix", "/proc/net/udp", "/proc/net/raw", "/proc/self/mountinfo"};
        for (int i = 0; i < 4; i++) {
            int fd = open(names[i], O_RDONLY);
            long got;
            while ((got = read(fd, text, sizeof text)) > 0)
                result += got;
            result += pread(fd, text, 4096, 1500000);
            close(fd);
        }
        char *m = memory(40000 * PAGE);
        for (int i = 0; i < 40000; i += 2)
            mprotect(m + i * PAGE, PAGE, PROT_READ);
        int maps = open("/proc/self/maps", O_RDONLY);
        for (int i = 5; i; i--)
            result += pread(maps, text, 4096, i * 300000L) > 0;
    } else if (!strcmp(kind, "leaving")) { /* by exit, by a signal, and by execve */
        setrlimit(RLIMIT_NOFILE, &many);
        for (int how = 0; how < 3; how++) {
            if (fork() == 0) {
                int pair[2];
                while (pipe(pair) == 0 && pair[1] < 60000)
                    ;
                if (how == 1)
                    raise(SIGKILL);
                for (int fd = 3; how == 2 && fd < 60000; fd++)
                    fcntl(fd, F_SETFD, FD_CLOEXEC);
                if (how == 2)
                    execl("/bin/true", "true", NULL);
                _exit(0);
            }
            result += wait(NULL) > 0;
        }
    } else if (!strcmp(kind, "arguments")) { /* each in another page than the one before */
        char *m = memory(4 * PAGE), **v = calloc(200001, sizeof *v);
        for (int i = 0; i < 200000; i++)
            v[i] = m + i % 2 * 2 * PAGE;
        execv("/bin/true", v);
    } else if (!strcmp(kind, "submit")) { /* many requests, and a large one */
        static struct iocb one[2000], *all[2000];
        aio_context_t context = 0;
        int fd = file("/tmp/submit");
        char *m = memory(256 * MIB);
        syscall(SYS_io_setup, 2000, &context);
        for (int i = 0; i < 2000; i++) {
            one[i] = (struct iocb){.aio_fildes = fd, .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_buf = (long)m, .aio_nbytes = 65536};
            all[i] = one + i;
        }
        one[1].aio_nbytes = 256 * MIB;
        result = syscall(SYS_io_submit, context, 2000, all);
    } else if (!strcmp(kind, "epolls")) {
        static struct epoll_event in = {EPOLLIN};
        int e[5][24], p[2]; /* 24^4 ways, were they not limited */
        pipe(p);
        for (int a = 0; a < 5; a++)
            for (int b = 0; b < 24; b++)
                e[a][b] = epoll_create1(0);
        for (int b = 0; b < 24; b++)
            epoll_ctl(e[4][b], EPOLL_CTL_ADD, p[0], &in);
        for (int a = 0; a < 4; a++)
            for (int b = 0; b < 24; b++)
                for (int d = 0; d < 24; d++)
                    epoll_ctl(e[a][b], EPOLL_CTL_ADD, e[a + 1][d], &in);
        result = write(p[1], "x", 1);
    }
    return result;
}

int main(int argc, char **argv)
{
    int ready[2];
    pipe(ready);
    pid_t attacker = fork();
    if (!attacker) {
        char c;
        read(ready[0], &c, 1);
        long result = attack(argv[1]);
        printf("%s %ld\n", argv[1], result);
        fflush(stdout);
        _exit(0);
    }
    write(ready[1], "x", 1);
    int calls = 0, status = 0;
    int is_silent = !strcmp(argv[1], "splice") || !strcmp(argv[1], "sendfile"); /* its call does not end */
    while (waitpid(attacker, &status, WNOHANG) == 0 && (!is_silent || calls < 20000))
        calls++;
    printf("served %s\n", !status || (!strcmp(argv[1], "killing") && status == SIGKILL) ? "meanwhile" : "not");
    return 0;
}
