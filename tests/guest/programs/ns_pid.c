/* Pid namespaces: the numbers at every boundary, init's death, signals to init, reparenting. */
#include "event_show.h"
#include <linux/sched.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    write(fd, text, strlen(text));
    close(fd);
}

static int pair[2], gate[2], heard[2];
static char one_byte;

static void show_status(const char *path)
{
    char line[200];
    FILE *f = fopen(path, "r");
    if (!f) {
        printf("%s: %s\n", path, strerrorname_np(errno));
        return;
    }
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "NSpid", 5) || !strncmp(line, "Pid", 3) || !strncmp(line, "PPid", 4) ||
            !strncmp(line, "NSsid", 5) || !strncmp(line, "NSpgid", 6))
            fputs(line, stdout);
    fclose(f);
}

static void on_signal(int signo, siginfo_t *info, void *context)
{
    printf("signal %d code %d pid %d uid %d\n", signo, info->si_code, info->si_pid, info->si_uid);
    if (getpid() == 1)
        write(heard[1], "x", 1);
}

static void catch (int signo)
{
    struct sigaction a = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(signo, &a, NULL);
}

static void send_cred(int fd, pid_t pid)
{
    char data = 'c', control[CMSG_SPACE(sizeof(struct ucred))] = {0};
    struct iovec iov = {&data, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_CREDENTIALS;
    c->cmsg_len = CMSG_LEN(sizeof(struct ucred));
    struct ucred u = {pid, getuid(), getgid()};
    memcpy(CMSG_DATA(c), &u, sizeof u);
    SHOW(sendmsg(fd, &m, 0));
}

static void receive_cred(int fd, pid_t child)
{
    char data, control[256];
    struct iovec iov = {&data, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    recvmsg(fd, &m, 0);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    struct ucred u;
    memcpy(&u, CMSG_DATA(c), sizeof u);
    printf("got '%c' from %s uid %d gid %d\n", data, u.pid == child ? "the child" : u.pid == 0 ? "0" : "another", u.uid,
           u.gid);
}

static void inner(void)
{
    printf("inner: pid %d tid %ld ppid %d pgrp %d sid %d\n", getpid(), syscall(SYS_gettid), getppid(), getpgrp(),
           getsid(0));
    SHOW(unshare(CLONE_NEWNS));
    SHOW(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
    show_status("/proc/self/status");
    char link[64];
    long n = readlink("/proc/self", link, sizeof link - 1);
    link[n > 0 ? n : 0] = 0;
    printf("/proc/self is %s\n", link);
    SHOW(access("/proc/1", F_OK));
    SHOW(access("/proc/2", F_OK));
    SHOW(kill(1, 0));
    SHOW(kill(2, 0));
    SHOW(kill(-1, SIGTERM));
    SHOW(raise(SIGTERM));
    SHOW(kill(1, SIGKILL));
    SHOW(setsid() > 0);
    printf("sid %d pgrp %d\n", getsid(0), getpgrp());
    send_cred(pair[1], 1);
    send_cred(pair[1], 2);
    catch (SIGUSR1);
    pid_t child = fork();
    if (child == 0) {
        printf("child: pid %d ppid %d pgrp %d\n", getpid(), getppid(), getpgrp());
        kill(1, SIGUSR1);
        read(heard[0], &one_byte, 1);
        if (fork() == 0) {
            while (getppid() != 1)
                nap_ms(1);
            _exit(getpid() << 4 | getppid());
        }
        _exit(3);
    }
    int status;
    pid_t got;
    while ((got = wait(&status)) > 0 || errno == EINTR)
        if (got > 0)
            printf("waited %d status %x\n", got, status);
    int lock = open("lock", O_CREAT | O_RDWR, 0600);
    struct flock l = {.l_type = F_WRLCK};
    SHOW(fcntl(lock, F_SETLK, &l));
    SHOW(fcntl(lock, F_SETOWN, 1));
    SHOW(fcntl(lock, F_SETOWN, 99));
    SHOW(fcntl(lock, F_GETOWN));
    write(gate[1], "x", 1);
    read(pair[1], &one_byte, 1);
    if (fork() == 0) {
        struct flock other = {.l_type = F_WRLCK};
        fcntl(lock, F_GETLK, &other);
        printf("lock held by %d\n", other.l_pid);
        _exit(0);
    }
    wait(NULL);
    pid_t sleeper = fork();
    if (sleeper == 0) {
        pause();
        _exit(0);
    }
    write(gate[1], "x", 1);
    for (;;)
        pause(); /* the parent checks, and kills this process */
}

static void nested_death(void)
{
    SHOW(unshare(CLONE_NEWUSER | CLONE_NEWPID));
    SHOW(unshare(CLONE_NEWPID));
    pid_t first = fork();
    if (first == 0)
        _exit(getpid());
    int status;
    SHOW(waitpid(first, &status, 0) == first);
    printf("first was %d\n", WEXITSTATUS(status));
    SHOW(fork());
    SHOW(setns(open("/proc/self/ns/pid", O_RDONLY), 0));
    pid_t again = fork();
    if (again == 0)
        _exit(7);
    SHOW(waitpid(again, &status, 0) == again);
    printf("again %d\n", WEXITSTATUS(status));
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    chmod(".", 0777);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    pipe(gate);
    pipe(heard);
    setgid(1234);
    setuid(1234);
    prctl(PR_SET_DUMPABLE, 1);
    int one = 1;
    setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
    SHOW(unshare(CLONE_NEWPID));
    if (fork() == 0) {
        nested_death();
        _exit(0);
    }
    wait(NULL);
    SHOW(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    put("/proc/self/setgroups", "deny");
    put("/proc/self/gid_map", "0 1234 1");
    put("/proc/self/uid_map", "0 1234 1");
    SHOW(unshare(CLONE_NEWPID));
    SHOW(access("/proc/self/ns/pid_for_children", F_OK));
    char link[64];
    SHOW(readlink("/proc/self/ns/pid_for_children", link, sizeof link) > 0);
    pid_t child = fork();
    if (child == 0)
        inner();
    char c;
    read(gate[0], &c, 1);
    receive_cred(pair[0], child);
    int lock = open("lock", O_RDWR);
    struct flock l = {.l_type = F_WRLCK};
    SHOW(fcntl(lock, F_GETLK, &l));
    printf("held by %s\n", l.l_pid == child ? "the child" : "another");
    write(pair[0], "x", 1);
    read(gate[0], &c, 1);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", child);
    char line[200];
    FILE *f = fopen(path, "r");
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "NSpid", 5))
            printf("inner ends with%s", strrchr(line, '\t'));
    SHOW(kill(child, SIGTERM));
    SHOW(kill(child, SIGINT));
    kill(child, SIGUSR1);
    read(heard[0], &c, 1);
    SHOW(waitpid(child, NULL, WNOHANG));
    SHOW(kill(child, SIGKILL));
    int status;
    SHOW(waitpid(child, &status, 0) == child);
    printf("status %x\n", status);
    SHOW(fork());
    SHOW(waitpid(-1, &status, 0));
    if (fork() < 0)
        printf("no more: %s\n", strerrorname_np(errno));
    struct clone_args a = {.flags = CLONE_NEWPID, .exit_signal = SIGCHLD};
    SHOW(syscall(SYS_clone3, &a, sizeof a));
    unlink("lock");
    return 0;
}
