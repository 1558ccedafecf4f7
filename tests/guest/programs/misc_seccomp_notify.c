/* seccomp_unotify(2): a listener decides about calls, answers them, gives descriptors, or lets them go on. */
#include "ptrace_common.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

static int seccomp(unsigned operation, unsigned flags, void *arg)
{
    return syscall(SYS_seccomp, operation, flags, arg);
}

/* A filter that gives `action` to one call. */
static struct sock_fprog *filter(int number, unsigned action)
{
    static struct sock_filter code[4];
    static struct sock_fprog program = {4, code};
    code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
    code[1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1);
    code[2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
    code[3] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    return &program;
}

static void send_fd(int to, int fd)
{
    char space[CMSG_SPACE(4)];
    struct iovec io = {"x", 1};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(4);
    memcpy(CMSG_DATA(h), &fd, 4);
    sendmsg(to, &m, 0);
}

static int receive_fd(int from)
{
    char space[CMSG_SPACE(4)], c;
    int fd = -1;
    struct iovec io = {&c, 1};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    recvmsg(from, &m, MSG_CMSG_CLOEXEC);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), 4);
    return fd;
}

static int pair[2], output[2], listener, child;
static struct seccomp_notif note;
static volatile int handled;

static void handler(int signo)
{
    handled++;
}

static int receive(void)
{
    memset(&note, 0, sizeof note);
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &note);
}

static int answer(long value, int error, unsigned flags)
{
    struct seccomp_notif_resp r = {.id = note.id, .val = value, .error = error, .flags = flags};
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &r);
}

static void events(void)
{
    struct pollfd p = {listener, POLLIN | POLLOUT};
    poll(&p, 1, 0);
    printf("events %x\n", p.revents);
}

/* A child under a listener. */
static void begin(unsigned flags, void (*body)(void))
{
    fflush(stdout);
    pipe(output);
    child = fork();
    if (!child) {
        alarm(30);
        dup2(output[1], 1);
        close(output[0]);
        close(output[1]);
        int fd = seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | flags,
                         filter(SYS_mkdir, SECCOMP_RET_USER_NOTIF));
        printf("listener %d, close on exec %d\n", fd > 2, fcntl(fd, F_GETFD));
        T(seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, filter(SYS_mkdir, SECCOMP_RET_USER_NOTIF)));
        send_fd(pair[1], fd);
        close(fd);
        body();
        fflush(stdout);
        _exit(0);
    }
    close(output[1]);
    listener = receive_fd(pair[0]);
}

/* The end of the child, and its output. */
static void finish(void)
{
    char text[4096];
    int n;
    step("child", child);
    while ((n = read(output[0], text, sizeof text)) > 0)
        printf("%.*s", n, text);
    close(output[0]);
}

static char path[64] = "first";

static void plain(void)
{
    T(mkdir("made", 0700));
    T(mkdir("refused", 0700));
    T(mkdir("odd", 0700));
    T(mkdir(path, 0700));
    int fd = mkdir("fd", 0700);
    printf("fd %d %d\n", fd > 2, fcntl(fd, F_GETFD));
    printf("placed %d\n", fcntl(77, F_GETFD));
    fd = mkdir("fd", 0700);
    printf("fd %d %d\n", fd > 2, fcntl(fd, F_GETFD));
    fflush(stdout);
    write(pair[1], "d", 1);
    T(mkdir("never", 0700));
}

static void descriptors(void)
{
    struct seccomp_notif_addfd a = {.id = note.id, .newfd_flags = O_CLOEXEC};
    a.flags = 8;
    T(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    a.flags = 0, a.newfd = 5;
    T(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    a.newfd = 0, a.srcfd = 99;
    T(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    a.srcfd = 0, a.newfd_flags = 2;
    T(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    a.newfd_flags = O_CLOEXEC, a.id = note.id + 1;
    T(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    a.id = note.id;
    int fd = ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a);
    printf("given %d\n", fd > 2);
    a.flags = SECCOMP_ADDFD_FLAG_SETFD, a.newfd = 77, a.newfd_flags = 0;
    T(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    a.newfd = 1 << 24;
    T(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a));
    char larger[40] = "";
    memcpy(larger, &a, sizeof a);
    larger[30] = 1;
    T(ioctl(listener, _IOC(_IOC_WRITE, '!', 3, 40), larger));
    T(ioctl(listener, _IOC(_IOC_WRITE, '!', 3, 20), larger));
    T(answer(fd, 0, 0));
    T(receive());
    a = (struct seccomp_notif_addfd){.id = note.id, .flags = SECCOMP_ADDFD_FLAG_SEND};
    printf("given %d\n", ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a) > 2);
    int again = ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &a);
    printf("again %d %d\n", again, errno == ENOENT || errno == EINPROGRESS);
}

static void decide(void)
{
    char c;
    events();
    memset(&note, 1, sizeof note);
    T(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &note));
    T(receive());
    printf("%d %d %d %d\n", note.pid == child, note.data.nr, note.flags, (int)note.data.args[1]);
    events();
    T(ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &note.id));
    unsigned long long other = note.id + 7;
    T(ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &other));
    T(answer(0, -1, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
    T(answer(0, 0, 8));
    T(answer(0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
    T(receive());
    T(answer(0, -EDOM, 0));
    T(receive());
    T(answer(1234567890123, 0, 0));
    /* The memory that the call points to is read after the answer. */
    T(receive());
    struct iovec mine = {"second", 7}, theirs = {path, 7};
    T(process_vm_writev(child, &mine, 1, &theirs, 1, 0));
    T(answer(0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
    T(receive());
    descriptors();
    T(ioctl(listener, _IOW('!', 4, __u64), 1));
    T(ioctl(listener, _IOW('!', 4, __u64), 4));
    T(ioctl(listener, 1234, 0));
    read(pair[0], &c, 1);
    T(receive());
    kill(child, SIGKILL);
    finish();
    T(answer(0, 0, 0));
    events();
    T(receive());
    struct stat st;
    printf("made %d %d %d\n", stat("made", &st), stat("first", &st), stat("second", &st));
    close(listener);
}

static void interrupted(void)
{
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, NULL);
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR2, &action, NULL);
    T(mkdir("i", 0700));
    printf("handled %d\n", handled);
    T(mkdir("j", 0700));
    printf("handled %d\n", handled);
    T(mkdir("k", 0700));
    printf("handled %d\n", handled);
}

static void interrupt(int is_killable)
{
    T(receive());
    kill(child, SIGUSR1);
    if (!is_killable) {
        unsigned long long id = note.id;
        while (!ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id))
            usleep(100);
    } else {
        usleep(20000);
        T(answer(1, 0, 0));
    }
    T(receive());
    kill(child, SIGUSR2);
    if (!is_killable) {
        unsigned long long id = note.id;
        T(receive());
        printf("another %d\n", note.id != id);
    } else
        usleep(20000);
    T(answer(2, 0, 0));
    T(receive());
    T(close(listener));
    finish();
}

static void orphan(void)
{
    if (!fork()) {
        close(1);
        usleep(30000);
        _exit(0);
    }
}

static void errors(void)
{
    struct seccomp_notif_sizes sizes;
    unsigned action = SECCOMP_RET_USER_NOTIF;
    T(seccomp(SECCOMP_GET_NOTIF_SIZES, 0, &sizes));
    printf("%d %d %d\n", sizes.seccomp_notif, sizes.seccomp_notif_resp, sizes.seccomp_data);
    T(seccomp(SECCOMP_GET_NOTIF_SIZES, 1, &sizes));
    T(seccomp(SECCOMP_GET_ACTION_AVAIL, 0, &action));
    struct sock_fprog *p = filter(SYS_mkdir, action);
    T(seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC, p));
    T(seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, p));
    fflush(stdout);
    if (!fork()) {
        T(seccomp(SECCOMP_SET_MODE_FILTER, 0, p));
        T(mkdir("none", 0700));
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
}

int main(void)
{
    start();
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    alarm(50);
    errors();
    begin(0, plain);
    struct pollfd p = {listener, POLLIN};
    poll(&p, 1, 10000);
    decide();
    begin(0, interrupted);
    interrupt(0);
    begin(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, interrupted);
    interrupt(1);
    begin(0, orphan);
    finish();
    p.fd = listener;
    printf("poll %d", poll(&p, 1, 10000));
    printf(" %x\n", p.revents);
    T(receive());
    return 0;
}
