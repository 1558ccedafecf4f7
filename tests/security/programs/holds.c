/* Large states of the kernel, and then the one call that has to deal with all of it: others must not wait for that.

       holds CASE SIZE

   No call here is refused, and each state is bounded by a limit of Linux or of cloche; the sentry's meter measures
(CLOCHE_STRICT). Prints "done", or the object that could not be made. */
#include "hostile.h"
#include <grp.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <sched.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

static int size;

#define CHECK(call) check((long)(call), #call)

static long check(long result, const char *what)
{
    if (result == -1) {
        printf("%s: %s\n", what, strerror(errno));
        exit(3);
    }
    return result;
}

static void more_descriptors(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < (rlim_t)size + 100)
        size = limit.rlim_max - 100;
}

static void read_all(const char *path)
{
    char buffer[65536];
    int fd = CHECK(open(path, O_RDONLY));
    while (read(fd, buffer, sizeof buffer) > 0)
        ;
    close(fd);
}

/* A hole of `size` numbers below one descriptor, then forks and execs of it. */
static void high_descriptor(void)
{
    more_descriptors();
    CHECK(dup2(1, size + 50));
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    waitpid(pid, NULL, 0);
    close(size + 50);
    pid = fork();
    if (pid == 0)
        _exit(0);
    waitpid(pid, NULL, 0);
    CHECK(fcntl(1, F_DUPFD, size + 20));
    CHECK(fcntl(1, F_DUPFD, 10));
}

static void many_descriptors(void)
{
    more_descriptors();
    for (int i = 0; i < size; i++)
        CHECK(dup(0));
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    waitpid(pid, NULL, 0);
    CHECK(fcntl(1, F_DUPFD, 3));
    CHECK(syscall(SYS_close_range, 3, ~0U, 0));
}

/* One file that an epoll watches by many descriptors. */
static void one_file_watched(void)
{
    more_descriptors();
    struct epoll_event event = {EPOLLIN}, found[64];
    uint64_t one = 1;
    int file = CHECK(eventfd(0, EFD_NONBLOCK)), epoll = CHECK(epoll_create1(0)), outer = CHECK(epoll_create1(0));
    for (int i = 0; i < size; i++) {
        int fd = CHECK(dup(file));
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
            break;
    }
    epoll_ctl(outer, EPOLL_CTL_ADD, epoll, &event); /* (too many ways lead there) */
    CHECK(write(file, &one, 8));
    CHECK(epoll_wait(epoll, found, 64, 0));
    CHECK(read(file, &one, 8));
    CHECK(epoll_wait(epoll, found, 64, 0));
    CHECK(write(file, &one, 8));
    CHECK(fcntl(file, F_SETFL, O_ASYNC));
    char path[64];
    sprintf(path, "/proc/self/fdinfo/%d", epoll);
    read_all(path);
    close(epoll);
}

/* Many files that one epoll watches: all ready, none ready, described, watched itself, closed backwards. */
static void many_files_watched(void)
{
    more_descriptors();
    struct epoll_event event = {EPOLLIN}, found[64];
    uint64_t one = 1;
    char path[64];
    int epoll = CHECK(epoll_create1(0)), second = CHECK(epoll_create1(0)), outer = CHECK(epoll_create1(0)), first = 0, last = 0;
    for (int i = 0; i < size; i++) {
        int fd = last = eventfd(1, EFD_NONBLOCK);
        if (fd < 0)
            break;
        first = first ? first : fd;
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) || epoll_ctl(second, EPOLL_CTL_ADD, fd, &event))
            break;
    }
    epoll_ctl(outer, EPOLL_CTL_ADD, epoll, &event); /* (too many to look at) */
    CHECK(epoll_wait(epoll, found, 64, 0));
    for (int fd = first; fd <= last; fd++)
        read(fd, &one, 8);
    CHECK(epoll_wait(epoll, found, 64, 0));
    unsigned absent[3] = {epoll, last + 1, 0};
    syscall(SYS_kcmp, getpid(), getpid(), 7 /* KCMP_EPOLL_TFD */, 0L, absent);
    struct timespec none = {0, 0};
    struct pollfd polled = {epoll, POLLIN};
    CHECK(ppoll(&polled, 1, &none, NULL));
    for (int fd = first; fd <= last; fd++)
        write(fd, &one, 8);
    for (int fd = last; fd > last - 2000 && fd > first; fd--)
        close(fd);
    sprintf(path, "/proc/self/fdinfo/%d", epoll);
    read_all(path);
    close(second);
    close(epoll);
}

static void inotify_watches(void)
{
    char path[64];
    char directory[] = "/tmp/holds-XXXXXX";
    CHECK(mkdtemp(directory) == NULL ? -1 : 0);
    CHECK(chdir(directory));
    int fd = CHECK(inotify_init1(IN_NONBLOCK));
    for (int i = 0; i < size; i++) {
        sprintf(path, "f%d", i);
        close(CHECK(open(path, O_CREAT | O_RDWR, 0666)));
        if (inotify_add_watch(fd, path, IN_ALL_EVENTS) < 0)
            break;
    }
    for (int i = 0; i < size; i++) {
        sprintf(path, "f%d", i);
        close(open(path, O_RDONLY));
    }
    sprintf(path, "/proc/self/fdinfo/%d", fd);
    read_all(path);
    close(fd);
}

static void many_children(void)
{
    for (int i = 0; i < size && sleeper() > 0; i++)
        ;
    setpriority(PRIO_USER, 0, 1);
    kill(0, SIGWINCH);
    waitpid(-1, NULL, WNOHANG);
    printf("done\n");
    fflush(stdout);
    raise(SIGKILL); /* init inherits all */
}

static void semaphores(void)
{
    static struct sembuf operations[500];
    union { int val; unsigned short *array; } argument;
    int set = CHECK(semget(IPC_PRIVATE, 600, 0600));
    for (int i = 0; i < 499; i++)
        operations[i] = (struct sembuf){i, 1, 0};
    operations[499] = (struct sembuf){599, -1, 0};
    int made = 0;
    for (int i = 0; i < size; i++) {
        pid_t pid = fork();
        if (pid < 0)
            break;
        if (pid == 0) {
            semop(set, operations, 500);
            _exit(0);
        }
        made++;
    }
    while (semctl(set, 599, GETNCNT) < made)
        usleep(1000);
    struct sembuf up = {598, 1, 0}, go = {599, 1, 0};
    CHECK(semop(set, &up, 1));
    CHECK(semop(set, &go, 1));
    argument.val = 3;
    CHECK(semctl(set, 599, SETVAL, argument));
    CHECK(semctl(set, 0, IPC_RMID));
    while (wait(NULL) > 0)
        ;
}

static void mounts(void)
{
    if (unshare(CLONE_NEWNS | CLONE_NEWUSER)) {
        printf("unshare: %s\n", strerror(errno));
        exit(3);
    }
    CHECK(mount("none", "/tmp", "tmpfs", 0, "size=16m"));
    CHECK(mkdir("/tmp/m", 0777));
    CHECK(mkdir("/tmp/copy", 0777));
    for (int i = 0; i < size; i++)
        if (mount("none", "/tmp/m", "tmpfs", 0, "size=4k"))
            break;
    if (fork() == 0)
        _exit(0);
    wait(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(unshare(CLONE_NEWNS));
        CHECK(umount2("/tmp", MNT_DETACH));
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    mount("/tmp", "/tmp/copy", NULL, MS_BIND | MS_REC, NULL);
    mount(NULL, "/tmp", NULL, MS_REC | MS_SHARED, NULL);
    read_all("/proc/self/mountinfo");
    CHECK(umount2("/tmp", MNT_DETACH));
}

/* A file system with many files, of which nothing is left at once. */
static void full_tmpfs(void)
{
    char path[64];
    if (unshare(CLONE_NEWNS | CLONE_NEWUSER)) {
        printf("unshare: %s\n", strerror(errno));
        exit(3);
    }
    CHECK(mount("none", "/tmp", "tmpfs", 0, "size=256m,nr_inodes=0"));
    CHECK(chdir("/tmp"));
    for (int i = 0; i < size; i++) {
        sprintf(path, "f%d", i);
        int fd = open(path, O_CREAT | O_RDWR, 0666);
        if (fd < 0)
            break;
        write(fd, path, 10);
        close(fd);
    }
    CHECK(chdir("/"));
    CHECK(umount2("/tmp", 0));
}

/* A path as deep as can be made. */
static void deep_path(void)
{
    char *buffer = malloc(1 << 20);
    CHECK(mkdir("/tmp/holds-deep", 0777));
    CHECK(chdir("/tmp/holds-deep"));
    for (int i = 0; i < size; i++)
        if (mkdir("d", 0777) || chdir("d"))
            break;
    syscall(SYS_getcwd, buffer, 1 << 20);
    readlink("/proc/self/cwd", buffer, 1 << 20);
    mkdir("e", 0777);
    rename("e", "f");
    rename("/tmp/holds-deep", "e/f");
    rename("/tmp/holds-deep", "/tmp/holds-deep2");
    read_all("/proc/self/maps");
}

static void timers(void)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    struct itimerspec soon = {{0, 0}, {0, 1000000}};
    struct rlimit all = {size, size};
    sigset_t set;
    int made = 0;
    setrlimit(RLIMIT_SIGPENDING, &all);
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < size; i++, made++) {
        int id;
        if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id))
            break;
        syscall(SYS_timer_settime, id, 0, &soon, NULL);
    }
    if (made < 10)
        CHECK(-1);
    usleep(100000);
    read_all("/proc/self/timers");
    printf("done\n");
    fflush(stdout);
    execl("/bin/true", "true", NULL);
}

static void locks(void)
{
    int fd = CHECK(open("/tmp/holds-locked", O_CREAT | O_RDWR, 0666));
    struct flock lock = {F_WRLCK, SEEK_SET};
    for (int i = 0; i < size; i++) {
        lock.l_start = 2 * i;
        lock.l_len = 1;
        if (fcntl(fd, F_SETLK, &lock))
            break;
    }
    lock.l_start = 1;
    lock.l_len = 0;
    CHECK(fcntl(fd, F_SETLK, &lock));
    for (int i = 0; i < size; i++) {
        lock.l_start = 2 * i;
        lock.l_len = 1;
        lock.l_type = i % 2 ? F_RDLCK : F_UNLCK;
        if (fcntl(fd, F_SETLK, &lock))
            break;
    }
    read_all("/proc/locks");
    close(fd);
}

/* Descriptors that are under way in sockets that are under way. */
static void descriptors_sent(void)
{
    more_descriptors();
    int pair[2], files[253];
    char byte = 0, room[CMSG_SPACE(sizeof files)];
    struct iovec part = {&byte, 1};
    struct msghdr message = {NULL, 0, &part, 1, room, sizeof room};
    struct cmsghdr *head = (void *)room;
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    for (int i = 0; i < 253; i++)
        files[i] = i % 2 ? pair[0] : pair[1];
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof files);
    memcpy(CMSG_DATA(head), files, sizeof files);
    for (int sent = 0; sent < size; sent += 253) {
        if (sendmsg(pair[0], &message, MSG_DONTWAIT) < 0) {
            if (errno == EAGAIN || errno == ENOBUFS)
                CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
            else
                break;
        }
    }
    for (int fd = 3; fd < 600; fd++)
        close(fd);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    close(pair[0]);
}

static void signals_queued(void)
{
    union sigval value = {0};
    struct rlimit all = {size, size};
    sigset_t set;
    setrlimit(RLIMIT_SIGPENDING, &all);
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < size; i++)
        if (sigqueue(getpid(), SIGRTMIN + i % 20, value))
            break;
    siginfo_t info;
    struct timespec none = {0, 0};
    sigtimedwait(&set, &info, &none);
    signal(SIGRTMIN + 3, SIG_IGN);
    printf("done\n");
    fflush(stdout);
    execl("/bin/true", "true", NULL);
}

static void messages(void)
{
    int queue = CHECK(msgget(IPC_PRIVATE, 0600));
    struct { long type; char text[1]; } message = {1};
    for (int i = 0; i < size; i++) {
        message.type = 1 + i % 7;
        if (msgsnd(queue, &message, 0, IPC_NOWAIT))
            break;
    }
    msgrcv(queue, &message, 0, -3, IPC_NOWAIT);
    msgrcv(queue, &message, 0, 99, IPC_NOWAIT);
    CHECK(msgctl(queue, IPC_RMID, NULL));
}

static volatile int sleeping;
static int word, other;

static void *sleeps(void *arg)
{
    __atomic_fetch_add(&sleeping, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL, NULL, 0);
    return NULL;
}

static void threads(void)
{
    pthread_attr_t small;
    pthread_t id;
    int made = 0;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    for (int i = 0; i < size; i++, made++)
        if (pthread_create(&id, &small, sleeps, NULL))
            break;
    while (sleeping < made)
        usleep(1000);
    struct stat state;
    read_all("/proc/self/status");
    stat("/proc/self/task", &state);
    syscall(SYS_futex, &word, FUTEX_REQUEUE, 0, 1 << 30, &other, 0);
    syscall(SYS_futex, &other, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
    printf("done\n");
    fflush(stdout);
    execl("/bin/true", "true", NULL);
}

/* As many areas as there may be, each of its own kind. */
static void areas(void)
{
    int fd = CHECK(memfd_create("holds", 0));
    CHECK(ftruncate(fd, 4096));
    for (int i = 0; i < size; i++)
        if (mmap(NULL, 4096, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE, i % 3 ? MAP_SHARED : MAP_PRIVATE, fd, 0) == MAP_FAILED)
            break;
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    waitpid(pid, NULL, 0);
    read_all("/proc/self/smaps_rollup");
    pid = fork();
    if (pid == 0) {
        kill(getpid(), SIGKILL);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    printf("done\n");
    fflush(stdout);
    execl("/bin/true", "true", NULL);
}

/* A stream of single bytes, and a queue of empty datagrams. */
static void pieces(void)
{
    int pair[2], most = 1 << 24;
    char byte = 1, *room = malloc(1 << 22);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &most, 4);
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &most, 4);
    for (int i = 0; i < size; i++)
        if (write(pair[0], &byte, 1) < 0)
            break;
    CHECK(recv(pair[1], room, 1 << 22, MSG_PEEK));
    CHECK(read(pair[1], room, 1 << 22));
    CHECK(write(pair[0], &byte, 1));
    for (int i = 0; i < size; i++)
        if (write(pair[0], &byte, 1) < 0)
            break;
    close(pair[0]);
    close(pair[1]);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair));
    for (int i = 0; i < size; i++)
        if (write(pair[0], &byte, 1) < 0)
            break;
    close(pair[1]);
}

static void groups(void)
{
    gid_t *list = malloc(65536 * sizeof *list);
    for (int i = 0; i < 65536; i++)
        list[i] = 65536 - i;
    if (setgroups(65536, list) == 0)
        CHECK(getgroups(65536, list));
    read_all("/proc/self/status");
    access("/etc/shadow", R_OK);
}

static void file_locks(void)
{
    more_descriptors();
    for (int i = 0; i < size; i++) {
        int fd = open("/tmp/holds-flocked", O_CREAT | O_RDWR, 0666);
        if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB))
            break;
    }
    int fd = open("/tmp/holds-flocked", O_RDWR);
    flock(fd, LOCK_EX | LOCK_NB);
    read_all("/proc/locks");
}

static void filters(void)
{
    static struct sock_filter lines[4096];
    struct sock_fprog program = {4096, lines};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    for (int i = 0; i < 4095; i++)
        lines[i] = (struct sock_filter){0x04, 0, 0, 1}; /* add 1 */
    lines[4095] = (struct sock_filter){0x06, 0, 0, 0x7fff0000};
    for (int i = 0; i < 7; i++)
        CHECK(syscall(SYS_seccomp, 1, 0, &program));
    for (int i = 0; i < 100; i++)
        getppid();
}

/* As many arguments as a program may have, all empty but the first, and the same for its environment. */
static void arguments(void)
{
    struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_STACK, &all);
    char **list = calloc(size + 1, sizeof *list);
    for (int i = 0; i < size; i++)
        list[i] = i ? "" : "true";
    char **none = list + size;
    printf("done\n");
    fflush(stdout);
    if (fork() == 0) {
        CHECK(execve("/bin/true", list, list + size / 2));
    }
    wait(NULL);
    CHECK(execve("/bin/true", none, list + size / 10));
}

/* A process that has to undo something in every semaphore that there may be. */
static void undone(void)
{
    struct sembuf operations[500];
    int sets[32];
    int count = size / 32000;
    for (int i = 0; i < count; i++)
        sets[i] = CHECK(semget(IPC_PRIVATE, 32000, 0600));
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < count; i++)
            for (int first = 0; first < 32000; first += 500) {
                for (int k = 0; k < 500; k++)
                    operations[k] = (struct sembuf){first + k, 1, SEM_UNDO};
                CHECK(semop(sets[i], operations, 500));
            }
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    for (int i = 0; i < count; i++)
        CHECK(semctl(sets[i], 0, IPC_RMID));
}

int main(int argc, char **argv)
{
    static const struct { const char *name; void (*run)(void); } cases[] = {
        {"high-descriptor", high_descriptor}, {"many-descriptors", many_descriptors}, {"one-file-watched", one_file_watched}, {"many-files-watched", many_files_watched},
        {"inotify-watches", inotify_watches}, {"many-children", many_children}, {"semaphores", semaphores}, {"mounts", mounts}, {"full-tmpfs", full_tmpfs}, {"deep-path", deep_path},
        {"timers", timers}, {"locks", locks}, {"descriptors-sent", descriptors_sent}, {"signals-queued", signals_queued}, {"messages", messages}, {"threads", threads},
        {"areas", areas}, {"pieces", pieces}, {"groups", groups}, {"file-locks", file_locks}, {"filters", filters}, {"arguments", arguments}, {"undone", undone}};
    size = atoi(argv[2]);
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(cases[i].name, argv[1])) {
            pid_t pid = fork();
            if (pid == 0) {
                cases[i].run();
                printf("done\n");
                exit(0);
            }
            int status;
            waitpid(pid, &status, 0);
            return 0;
        }
    return 2;
}
