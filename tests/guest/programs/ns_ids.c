/* Ids of another user namespace in the kernel's answers: sockets, signals, IPC, locks, terminals. */
#include "event_show.h"
#include <grp.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    write(fd, text, strlen(text));
    close(fd);
}

static void on_signal(int signo, siginfo_t *info, void *context)
{
    printf("signal %d code %d from uid %u value %d\n", signo, info->si_code, info->si_uid, info->si_value.sival_int);
}

static void peer(int fd, const char *what)
{
    struct ucred u;
    socklen_t size = sizeof u;
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &size);
    printf("%s: uid %u gid %u\n", what, u.uid, u.gid);
}

static void receive(int fd)
{
    char data, control[256];
    struct iovec iov = {&data, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    recvmsg(fd, &m, 0);
    struct ucred u;
    memcpy(&u, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof u);
    printf("message from uid %u gid %u\n", u.uid, u.gid);
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    chmod(".", 0777);
    int before[2], inside[2], go[2], one = 1;
    socketpair(AF_UNIX, SOCK_STREAM, 0, before); /* of root */
    setgid(1234);
    setuid(1234);
    prctl(PR_SET_DUMPABLE, 1);
    socketpair(AF_UNIX, SOCK_DGRAM, 0, inside);
    setsockopt(inside[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
    setsockopt(inside[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
    pipe(go);
    struct sigaction a = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &a, NULL);
    sigaction(SIGRTMIN, &a, NULL);
    int queue = msgget(IPC_PRIVATE, 0644), sem = semget(IPC_PRIVATE, 1, 0644), shm = shmget(IPC_PRIVATE, 4096, 0644);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, &old);
    pid_t child = fork();
    if (child == 0) {
        unshare(CLONE_NEWUSER);
        put("/proc/self/setgroups", "deny");
        put("/proc/self/gid_map", "20 1234 1");
        put("/proc/self/uid_map", "10 1234 1");
        peer(before[0], "root's pair");
        peer(inside[0], "our pair");
        struct msqid_ds q;
        SHOW(msgctl(queue, IPC_STAT, &q));
        printf("queue %u %u %u %u\n", q.msg_perm.uid, q.msg_perm.gid, q.msg_perm.cuid, q.msg_perm.cgid);
        struct shmid_ds s;
        SHOW(shmctl(shm, IPC_STAT, &s));
        printf("segment %u %u\n", s.shm_perm.uid, s.shm_perm.gid);
        q.msg_perm.uid = 1234;
        SHOW(msgctl(queue, IPC_SET, &q));
        q.msg_perm.uid = 10;
        SHOW(msgctl(queue, IPC_SET, &q));
        write(inside[1], "i", 1);
        receive(inside[1]);
        struct sembuf op = {0, 1, 0};
        SHOW(semop(sem, &op, 1));
        sigqueue(getppid(), SIGRTMIN, (union sigval){.sival_int = 5});
        kill(getppid(), SIGUSR1);
        write(go[1], "x", 1);
        siginfo_t info;
        sigwaitinfo(&set, &info);
        printf("got %d from uid %u\n", info.si_signo, info.si_uid);
        gid_t groups[8];
        SHOW(getgroups(8, groups));
        struct stat st;
        SHOW(fstat(0, &st));
        _exit(0);
    }
    receive(inside[0]);
    write(inside[0], "o", 1);
    char c;
    read(go[0], &c, 1);
    for (int i = 0; i < 2; i++) {
        siginfo_t one_info;
        sigwaitinfo(&set, &one_info);
        printf("outside got %d code %d uid %u\n", one_info.si_signo == SIGUSR1 ? 1 : 2, one_info.si_code, one_info.si_uid);
    }
    kill(child, SIGUSR1);
    siginfo_t dead;
    waitid(P_PID, child, &dead, WEXITED);
    printf("dead uid %u\n", dead.si_uid);
    msgctl(queue, IPC_RMID, NULL);
    semctl(sem, 0, IPC_RMID);
    shmctl(shm, IPC_RMID, NULL);
    return 0;
}
