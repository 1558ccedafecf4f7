/* unshare and setns without privileges: the calls that need none, and the errors. */
#include "event_show.h"
#include <dirent.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static int try_clone(unsigned long flags)
{
    struct clone_args a = {.flags = flags, .exit_signal = SIGCHLD};
    long pid = syscall(SYS_clone3, &a, sizeof a);
    if (pid == 0)
        _exit(0);
    if (pid > 0)
        waitpid(pid, NULL, 0);
    return pid > 0 ? 0 : pid;
}

static int barrier[2];
static void *sleeper(void *arg)
{
    char c;
    read(barrier[0], &c, 1);
    return NULL;
}

static void *loner(void *arg)
{
    SHOW(unshare(CLONE_FS));
    SHOW(chdir("/"));
    SHOW(unshare(CLONE_FILES));
    close(barrier[1]);
    return NULL;
}

static int threads(void)
{
    DIR *dir = opendir("/proc/self/task");
    int count = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    setgid(1234);
    if (setuid(1234))
        printf("not root\n");
    SHOW(unshare(0));
    SHOW(unshare(CLONE_FS | CLONE_FILES | CLONE_SYSVSEM));
    SHOW(unshare(CLONE_VM));
    SHOW(unshare(CLONE_SIGHAND | CLONE_THREAD));
    SHOW(unshare(CLONE_NEWUTS));
    SHOW(unshare(CLONE_NEWIPC));
    SHOW(unshare(CLONE_NEWNS));
    SHOW(unshare(CLONE_NEWNET));
    SHOW(unshare(CLONE_NEWPID));
    SHOW(unshare(CLONE_NEWCGROUP));
    SHOW(unshare(CLONE_PARENT));
    SHOW(unshare(CLONE_VFORK));
    SHOW(try_clone(CLONE_NEWUTS));
    SHOW(try_clone(CLONE_NEWIPC));
    SHOW(try_clone(CLONE_NEWIPC | CLONE_SYSVSEM));
    SHOW(try_clone(CLONE_NEWNS));
    SHOW(try_clone(CLONE_NEWNS | CLONE_FS));
    SHOW(try_clone(CLONE_NEWPID));
    SHOW(try_clone(0));

    int uts = open("/proc/self/ns/uts", O_RDONLY), mnt = open("/proc/self/ns/mnt", O_RDONLY);
    int user = open("/proc/self/ns/user", O_RDONLY), file = open("/proc/self/status", O_RDONLY);
    SHOW(setns(uts, 0));
    SHOW(setns(uts, CLONE_NEWIPC));
    SHOW(setns(mnt, CLONE_NEWNS));
    SHOW(setns(user, 0));
    SHOW(setns(file, 0));
    SHOW(setns(-1, 0));
    int self = syscall(SYS_pidfd_open, getpid(), 0);
    SHOW(setns(self, 0));
    SHOW(setns(self, CLONE_FS));
    SHOW(setns(self, CLONE_NEWUTS));

    pthread_t a, b;
    char cwd[4096], after[4096];
    getcwd(cwd, sizeof cwd);
    pipe(barrier);
    pthread_create(&a, NULL, sleeper, NULL);
    SHOW(unshare(CLONE_THREAD));
    SHOW(unshare(CLONE_SIGHAND));
    SHOW(unshare(CLONE_VM));
    pthread_create(&b, NULL, loner, NULL);
    pthread_join(b, NULL);
    getcwd(after, sizeof after);
    printf("own directory %d\n", strcmp(cwd, after) == 0);
    SHOW(write(barrier[1], "x", 1)); /* was closed in another table only */
    pthread_join(a, NULL);

    while (threads() > 1) /* one that has been joined may still share the adjustments */
        sched_yield();

    /* unshare(CLONE_SYSVSEM) lets adjustments take place. */
    int id = semget(IPC_PRIVATE, 1, 0600);
    struct sembuf up = {0, 3, SEM_UNDO};
    semop(id, &up, 1);
    SHOW(semctl(id, 0, GETVAL));
    SHOW(unshare(CLONE_SYSVSEM));
    SHOW(semctl(id, 0, GETVAL));
    SHOW(semctl(id, 0, IPC_RMID));
    return 0;
}
