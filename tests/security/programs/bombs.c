/* Takes as much of one kind of thing as the kernel gives, then says so and waits to be killed (or ends).
 *
 * bombs KIND LIMIT: "full COUNT ERRNO" when there is no more, or LIMIT was reached. */
#include "hostile.h"
#include <mqueue.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

static long limit, count;

static void full(void)
{
    int e = errno;
    printf("full %ld %s\n", count, count >= limit ? "limit" : strerrorname_np(e));
    fflush(stdout);
    if (getenv("HOLD"))
        sleep(atoi(getenv("HOLD")));
    _exit(0);
}

static void many_files(void)
{
    struct rlimit r;
    getrlimit(RLIMIT_NOFILE, &r);
    r.rlim_cur = r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
}

/* Makes descriptors of a kind, LIMIT times; processes help when one's table is full. */
static void descriptors(int (*make)(void))
{
    many_files();
    while (count < limit && make() >= 0)
        count++;
    full();
}

static int make_file(void) { return open("/etc/passwd", O_RDONLY); }
static int make_dup(void) { return dup(0); }
static int make_pipe(void)
{
    int fds[2];
    if (pipe2(fds, O_NONBLOCK))
        return -1;
    static char block[65536];
    write(fds[1], block, sizeof block);
    return 0;
}
static int make_big_pipe(void)
{
    int fds[2];
    if (pipe2(fds, O_NONBLOCK))
        return -1;
    static char block[1 << 20];
    fcntl(fds[1], F_SETPIPE_SZ, 1 << 20);
    write(fds[1], block, sizeof block);
    return 0;
}
static int make_packets(void)
{
    int fds[2];
    if (pipe2(fds, O_NONBLOCK | O_DIRECT))
        return -1;
    fcntl(fds[1], F_SETPIPE_SZ, 1 << 20);
    while (write(fds[1], "x", 1) == 1)
        ;
    return 0;
}
static int make_eventfd(void) { return eventfd(0, 0); }
static int make_timerfd(void)
{
    struct itimerspec soon = {{0, 1000000}, {0, 1000000}};
    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    if (fd >= 0)
        timerfd_settime(fd, 0, &soon, NULL);
    return fd;
}
static int make_epoll(void) { return epoll_create1(0); }
static int make_memfd(void)
{
    static char block[65536];
    int fd = memfd_create("bomb", 0);
    if (fd >= 0 && write(fd, block, sizeof block) < 0)
        return -1;
    return fd;
}
static int make_big_memfd(void)
{
    int fd = memfd_create("bomb", 0);
    if (fd < 0 || ftruncate(fd, 64 << 20))
        return -1;
    char *p = mmap(NULL, 64 << 20, 3, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -1;
memset(p, 1, 64 << 20); /* and stays mapped: memory that is not mapped cannot be charged to a process, as in Linux */
    return fd;
}
static int make_inotify(void)
{
    int fd = inotify_init1(IN_NONBLOCK);
    if (fd < 0 || inotify_add_watch(fd, "/tmp", IN_ALL_EVENTS) < 0)
        return -1;
    return fd;
}
static int make_socketpair(void)
{
    int fds[2];
    static char block[65536];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds))
        return -1;
    while (write(fds[0], block, sizeof block) > 0)
        ;
    return 0;
}
static int make_pty(void) { return open("/dev/ptmx", O_RDWR | O_NOCTTY); }
static int make_signalfd(void)
{
    sigset_t set;
    sigfillset(&set);
    return signalfd(-1, &set, 0);
}
static int make_maps(void)
{
    char c;
    int fd = open("/proc/self/maps", O_RDONLY);
    if (fd >= 0)
        read(fd, &c, 1);
    return fd;
}

static void areas(int is_shared)
{
    while (count < limit) {
        void *p = mmap(NULL, 4096, count % 2 ? PROT_READ : PROT_NONE, (is_shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            break;
        count++;
    }
    full();
}

static void splits(void)
{
    char *p = mmap(NULL, limit * 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        full();
    while (count < limit && mprotect(p + count * 8192, 4096, PROT_NONE) == 0)
        count++;
    full();
}

static void memory(long step, int flags)
{
    char *p = mmap(NULL, limit, 3, flags | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        full();
    for (; count < limit; count += step)
        p[count] = 1;
    full();
}

static void heap_of_children(void)
{
    while (count < limit) {
        pid_t pid = fork();
        if (pid < 0)
            break;
        if (pid == 0) {
            memset(malloc(16 << 20), 1, 16 << 20);
            pause();
        }
        count++;
    }
    sleep(2);
    full();
}

static void region(void)
{
    for (; count < (128L << 20) && count < limit; count += 4096) {
        if (count >= 0x20000 * 2 || count % 0x20000 == 0x1000)
            *(volatile char *)(REGION_BASE + count) = 1;
    }
    full();
}

static void files(const char *what)
{
    static char block[65536];
    char name[512];
    mkdir("/tmp/bomb", 0777);
    chdir("/tmp/bomb");
    int fd = open("first", O_RDWR | O_CREAT, 0600);
    for (; count < limit; count++) {
        int result = 0;
        snprintf(name, sizeof name, "%0200ld", count);
        if (!strcmp(what, "data"))
            result = write(fd, block, sizeof block) <= 0;
        else if (!strcmp(what, "empty"))
            result = close(open(name, O_WRONLY | O_CREAT, 0600));
        else if (!strcmp(what, "links"))
            result = link("first", name);
        else if (!strcmp(what, "symlinks")) {
            memset(block, 'a', 4090);
            result = symlink(block, name);
        } else if (!strcmp(what, "directories"))
            result = mkdir(name, 0700);
        else if (!strcmp(what, "deep"))
            result = mkdir("d", 0700) || chdir("d");
        else if (!strcmp(what, "xattrs"))
            result = fsetxattr(fd, strcat(strcpy(block + 4096, "user."), name), block, 4096, 0);
        else if (!strcmp(what, "absent")) {
            struct stat st;
            stat(name, &st);
        } else if (!strcmp(what, "locks")) {
            struct flock lock = {F_WRLCK, SEEK_SET, count * 2, 1};
            result = fcntl(fd, F_SETLK, &lock);
        } else if (!strcmp(what, "watches")) {
            static int in = -1;
            if (in < 0)
                in = inotify_init();
            close(open(name, O_WRONLY | O_CREAT, 0600));
            result = inotify_add_watch(in, name, IN_ALL_EVENTS) < 0;
        } else if (!strcmp(what, "sparse"))
            result = pwrite(fd, "x", 1, count << 21) != 1;
        else if (!strcmp(what, "sockets")) {
            struct sockaddr_un address = {AF_UNIX};
            snprintf(address.sun_path, sizeof address.sun_path, "%ld", count);
            int s = socket(AF_UNIX, SOCK_STREAM, 0);
            result = s < 0 || bind(s, (void *)&address, sizeof address);
            close(s);
        }
        if (result)
            break;
    }
    full();
}

static void inotify_events(void)
{
    static int fds[128];
    int n = 0;
    while (n < 128 && (fds[n] = make_inotify()) >= 0)
        n++;
    char a[300], b[300];
    memset(a, 'a', sizeof a);
    memset(b, 'b', sizeof b);
    memcpy(a, "/tmp/", 5);
    memcpy(b, "/tmp/", 5);
    a[255] = b[255] = 0;
    close(open(a, O_WRONLY | O_CREAT, 0600));
    while (count < limit) {
        if (rename(count % 2 ? b : a, count % 2 ? a : b))
            break;
        count++;
    }
    full();
}

static void epoll_items(void)
{
    many_files();
    int fds[64], n;
    for (n = 0; n < 64; n++)
        fds[n] = epoll_create1(0);
    while (count < limit) {
        struct epoll_event event = {EPOLLIN};
        int fd = eventfd(0, 0);
        if (fd < 0)
            break;
        for (int i = 0; i < 64 && count < limit; i++) {
            if (epoll_ctl(fds[i], EPOLL_CTL_ADD, fd, &event))
                full();
            count++;
        }
    }
    full();
}

static void signals(void)
{
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    uid_t uid = 5000;
    while (count < limit) {
        union sigval v = {0};
        if (sigqueue(getpid(), SIGRTMIN + count % 8, v)) {
            if (errno != EAGAIN || setresuid(uid, -1, 0)) /* another user, another limit */
                break;
            if (uid++ > 5200)
                break;
            continue;
        }
        count++;
    }
    full();
}

static void timers(void)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    struct itimerspec soon = {{0, 1000}, {0, 1000}};
    signal(SIGRTMIN, SIG_IGN);
    while (count < limit) {
        timer_t t;
        if (timer_create(CLOCK_MONOTONIC, &event, &t))
            break;
        timer_settime(t, 0, &soon, NULL);
        count++;
    }
    full();
}

static void forks(void)
{
    while (count < limit && sleeper() > 0)
        count++;
    full();
}

/* Grows by itself; ends with the process group. */
static void fork_storm(void)
{
    for (int i = 0; i < 12 && count < limit; i++)
        if (fork() >= 0)
            count++;
    pause();
}

static void zombies(void)
{
    while (count < limit) {
        pid_t pid = fork();
        if (pid < 0)
            break;
        if (pid == 0)
            _exit(0);
        count++;
    }
    full();
}

static void *sleeping_thread(void *arg)
{
    pause();
    return arg;
}

static void threads(void)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 16384);
    while (count < limit) {
        pthread_t t;
        int e = pthread_create(&t, &attr, sleeping_thread, NULL);
        if (e) {
            errno = e;
            break;
        }
        count++;
    }
    full();
}

static void tables(void)
{
    many_files();
    struct rlimit r;
    getrlimit(RLIMIT_NOFILE, &r);
    for (rlim_t fd = 3; fd < r.rlim_cur; fd += 32) /* somewhere in each part of the table */
        if (dup2(0, fd) < 0)
            full();
    forks();
}

static void groups(void)
{
    static gid_t list[65536];
    while (count < limit) {
        for (int i = 0; i < 65536; i++)
            list[i] = count * 65536 + i;
        if (setgroups(65536, list))
            break;
        pid_t pid = fork();
        if (pid < 0)
            break;
        if (pid == 0) {
            pause();
            _exit(0);
        }
        count++;
    }
    full();
}

static void filters(void)
{
    static struct sock_filter code[4096];
    struct sock_fprog program = {4096, code};
    for (int i = 0; i < 4096; i++)
        code[i] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
    code[4095] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    while (count < limit) {
        pid_t pid = fork();
        if (pid < 0)
            break;
        if (pid == 0) {
            for (int i = 0; i < 7; i++)
                syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
            pause();
        }
        count++;
    }
    full();
}

static void semaphores(void)
{
    while (count < limit && semget(IPC_PRIVATE, 1000, 0600 | IPC_CREAT) >= 0)
        count++;
    full();
}

static void segments(void)
{
    while (count < limit) {
        int id = shmget(IPC_PRIVATE, 32 << 20, 0600 | IPC_CREAT);
        if (id < 0)
            break;
        char *p = shmat(id, NULL, 0);
        if (p == (void *)-1)
            break;
        memset(p, 1, 32 << 20);
        shmdt(p);
        count++;
    }
    full();
}

static void messages(void)
{
    static struct { long type; char text[8192]; } message = {1};
    while (count < limit) {
        int id = msgget(IPC_PRIVATE, 0600 | IPC_CREAT);
        if (id < 0)
            break;
        while (msgsnd(id, &message, 8192, IPC_NOWAIT) == 0)
            ;
        count++;
    }
    full();
}

static void in_flight(void)
{
    /* Sockets in sockets in sockets. */
    int previous[2], next[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, previous))
        full();
    while (count < limit) {
        char room[CMSG_SPACE(2 * sizeof(int))] = "";
        struct iovec iov = {"x", 1};
        struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
        struct cmsghdr *c = CMSG_FIRSTHDR(&header);
        if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, next))
            break;
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(2 * sizeof(int));
        memcpy(CMSG_DATA(c), previous, 2 * sizeof(int));
        if (sendmsg(next[0], &header, 0) != 1)
            break;
        close(previous[0]);
        close(previous[1]);
        memcpy(previous, next, sizeof next);
        count++;
    }
    full();
}

int main(int argc, char **argv)
{
    const char *kind = argv[1];
    limit = atol(argv[2]);
    static const struct { const char *name; int (*make)(void); } makers[] = {
        {"files", make_file}, {"dups", make_dup}, {"pipes", make_pipe}, {"big-pipes", make_big_pipe}, {"packets", make_packets},
        {"eventfds", make_eventfd}, {"timerfds", make_timerfd}, {"epolls", make_epoll}, {"memfds", make_memfd},
        {"big-memfds", make_big_memfd}, {"inotifies", make_inotify}, {"socketpairs", make_socketpair}, {"ptys", make_pty},
        {"signalfds", make_signalfd}, {"maps-files", make_maps}};
    for (unsigned i = 0; i < sizeof makers / sizeof *makers; i++)
        if (!strcmp(kind, makers[i].name))
            descriptors(makers[i].make);
    if (!strncmp(kind, "fs-", 3))
        files(kind + 3);
    static const struct { const char *name; void (*run)(void); } runs[] = {
        {"splits", splits}, {"children-memory", heap_of_children}, {"region", region}, {"inotify-events", inotify_events},
        {"epoll-items", epoll_items}, {"signals", signals}, {"timers", timers}, {"forks", forks}, {"fork-storm", fork_storm},
        {"zombies", zombies}, {"threads", threads}, {"tables", tables}, {"groups", groups}, {"filters", filters},
        {"semaphores", semaphores}, {"segments", segments}, {"messages", messages}, {"in-flight", in_flight}};
    for (unsigned i = 0; i < sizeof runs / sizeof *runs; i++)
        if (!strcmp(kind, runs[i].name))
            runs[i].run();
    if (!strcmp(kind, "areas"))
        areas(0);
    if (!strcmp(kind, "shared-areas"))
        areas(1);
    if (!strcmp(kind, "maps-of-areas")) {
        long more = limit;
        limit = 60000;
        while (count < limit && mmap(NULL, 4096, count % 2, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
            count++;
        count = 0;
        limit = more;
        descriptors(make_maps);
    }
    if (!strcmp(kind, "memory"))
        memory(4096, MAP_PRIVATE | MAP_ANONYMOUS);
    if (!strcmp(kind, "shared-memory"))
        memory(4096, MAP_SHARED | MAP_ANONYMOUS);
    if (!strcmp(kind, "page-tables"))
        memory(2 << 20, MAP_PRIVATE | MAP_ANONYMOUS);
    if (!strcmp(kind, "page-tables-read")) {
        char *p = mmap(NULL, limit, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        volatile char c;
        for (; p != MAP_FAILED && count < limit; count += 2 << 20)
            c = p[count];
        full();
    }
    printf("unknown\n");
    return 2;
}
