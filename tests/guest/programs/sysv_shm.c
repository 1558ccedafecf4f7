/* Shared memory: creation, keys, sizes, attaching, inheritance, removal while attached. */
#include "event_show.h"
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

static void show_status(int id)
{
    struct shmid_ds d;
    if (shmctl(id, IPC_STAT, &d) < 0) {
        printf("status: %s\n", strerrorname_np(errno));
        return;
    }
    printf("status: size %zu nattch %lu mode %o cpid %d lpid %d uid %d cuid %d atime %d dtime %d ctime %d\n",
           d.shm_segsz, (unsigned long)d.shm_nattch, d.shm_perm.mode, d.shm_cpid == getpid(),
           d.shm_lpid == getpid(), d.shm_perm.uid == getuid(), d.shm_perm.cuid == getuid(), d.shm_atime != 0,
           d.shm_dtime != 0, d.shm_ctime != 0);
}

int main(void)
{
    int key = 0x41000000 ^ getpid();
    SHOW(shmget(key, 4096, 0600));
    SHOW(shmget(key, 0, IPC_CREAT | 0600));
    SHOW(shmget(IPC_PRIVATE, (size_t)-1, IPC_CREAT | 0600));
    int id = shmget(key, 5000, IPC_CREAT | IPC_EXCL | 0640);
    printf("id %d\n", id >= 0);
    SHOW(shmget(key, 5000, IPC_CREAT | IPC_EXCL | 0640));
    printf("again %d\n", shmget(key, 0, 0) == id);
    printf("again %d\n", shmget(key, 5000, IPC_CREAT | 0600) == id);
    SHOW(shmget(key, 5001, 0600));
    show_status(id);

    char *p = shmat(id, NULL, 0);
    printf("attached %d aligned %d zero %d\n", p != (void *)-1, ((uintptr_t)p & 4095) == 0, p[0] == 0 && p[8191] == 0);
    strcpy(p, "hello");
    show_status(id);
    char *q = shmat(id, NULL, SHM_RDONLY);
    printf("same pages: %s\n", q);
    SHOW(mprotect(q, 4096, PROT_READ | PROT_WRITE));
    SHOW(mprotect(p, 4096, PROT_READ));
    show_status(id); /* the attachment was split in two */
    SHOW(mprotect(p, 4096, PROT_READ | PROT_WRITE));

    SHOW(shmat(id, p, 0) == (void *)-1 ? -1 : 0);
    SHOW(shmat(id, p + 1, 0) == (void *)-1 ? -1 : 0);
    SHOW(shmat(id, NULL, SHM_REMAP) == (void *)-1 ? -1 : 0);
    SHOW(shmat(id, q + 1, SHM_RND | SHM_REMAP) == q ? 0 : -1);
    SHOW(shmat(-1, NULL, 0) == (void *)-1 ? -1 : 0);
    q[1] = 'E';
    printf("%s\n", p);

    pid_t child = fork();
    if (child == 0) {
        struct shmid_ds d;
        shmctl(id, IPC_STAT, &d);
        printf("child: nattch %lu\n", (unsigned long)d.shm_nattch);
        strcpy(p, "from the child");
        SHOW(shmdt(q));
        SHOW(shmdt(q));
        fflush(stdout);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    printf("%s; status %d\n", p, status);
    struct shmid_ds d;
    shmctl(id, IPC_STAT, &d);
    printf("nattch %lu, last is the child %d\n", (unsigned long)d.shm_nattch, d.shm_lpid == child);

    SHOW(shmctl(id, IPC_RMID, NULL));
    show_status(id);
    SHOW(shmget(key, 5000, 0600));
    char *r = shmat(id, NULL, 0);
    printf("attach a removed one: %s\n", r == (void *)-1 ? strerrorname_np(errno) : r);
    SHOW(shmdt(r));
    SHOW(shmdt(q));
    show_status(id);
    SHOW(shmdt(p + 4096));
    SHOW(shmdt(p + 1));
    SHOW(shmdt(p));
    show_status(id);
    SHOW(shmctl(id, IPC_RMID, NULL));
    SHOW(shmat(id, NULL, 0) == (void *)-1 ? -1 : 0);
    return 0;
}
