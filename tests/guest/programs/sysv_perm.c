/* Permissions, owners and IPC_SET of all three kinds; the listing of /proc/sysvipc. */
#include "event_show.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

static int has_line(const char *file, int id)
{
    char line[512], *end;
    FILE *f = fopen(file, "r");
    int found = 0;
    if (!f)
        return -1;
    fgets(line, sizeof line, f);
    printf("%s", line);
    while (fgets(line, sizeof line, f)) {
        strtol(line, &end, 10);
        if (strtol(end, &end, 10) == id)
            found = 1;
    }
    fclose(f);
    return found;
}

int main(void)
{
    int shm = shmget(IPC_PRIVATE, 4096, 0600), sem = semget(IPC_PRIVATE, 2, 0600), msg = msgget(IPC_PRIVATE, 0600);
    struct shmid_ds sd;
    struct semid_ds md;
    struct msqid_ds qd;
    printf("listed %d\n", has_line("/proc/sysvipc/shm", shm));
    printf("listed %d\n", has_line("/proc/sysvipc/sem", sem));
    printf("listed %d\n", has_line("/proc/sysvipc/msg", msg));
    SHOW(shmctl(shm, IPC_STAT, &sd));
    SHOW(semctl(sem, 0, IPC_STAT, &md));
    SHOW(msgctl(msg, IPC_STAT, &qd));
    printf("mode %o %o %o nsems %lu qbytes %lu keys %d %d %d\n", sd.shm_perm.mode, md.sem_perm.mode, qd.msg_perm.mode,
           (unsigned long)md.sem_nsems, (unsigned long)qd.msg_qbytes, sd.shm_perm.__key, md.sem_perm.__key,
           qd.msg_perm.__key);
    if (getuid() == 0) {
        pid_t child = fork();
        if (child == 0) {
            struct sembuf up = {0, 1, 0}, zero = {0, 0, IPC_NOWAIT};
            struct { long t; char c; } m = {1, 'x'};
            setgid(1234);
            setuid(1234);
            SHOW(shmat(shm, NULL, SHM_RDONLY) == (void *)-1 ? -1 : 0);
            SHOW(semop(sem, &up, 1));
            SHOW(semctl(sem, 0, GETVAL));
            SHOW(semctl(sem, 0, SETVAL, 1));
            SHOW(msgsnd(msg, &m, 1, 0));
            SHOW(msgrcv(msg, &m, 1, 0, IPC_NOWAIT));
            SHOW(shmctl(shm, IPC_STAT, &sd));
            SHOW(shmctl(shm, IPC_SET, &sd));
            SHOW(shmctl(shm, IPC_RMID, NULL));
            SHOW(semctl(sem, 0, IPC_RMID));
            SHOW(msgctl(msg, IPC_RMID, NULL));
            SHOW(shmctl(shm, SHM_LOCK, NULL));
            _exit(0);
        }
        waitpid(child, NULL, 0);
        sd.shm_perm.uid = 1234;
        sd.shm_perm.mode = 0400;
        SHOW(shmctl(shm, IPC_SET, &sd));
        md.sem_perm.mode = 0604;
        SHOW(semctl(sem, 0, IPC_SET, &md));
        qd.msg_perm.mode = 0602;
        qd.msg_qbytes = 100;
        SHOW(msgctl(msg, IPC_SET, &qd));
        child = fork();
        if (child == 0) {
            struct sembuf up = {0, 1, 0}, zero = {0, 0, IPC_NOWAIT};
            struct { long t; char c; } m = {1, 'x'};
            setgid(1234);
            setuid(1234);
            SHOW(shmat(shm, NULL, SHM_RDONLY) == (void *)-1 ? -1 : 0);
            SHOW(shmat(shm, NULL, 0) == (void *)-1 ? -1 : 0);
            SHOW(semop(sem, &up, 1));
            SHOW(semop(sem, &zero, 1));
            SHOW(semctl(sem, 0, GETVAL));
            SHOW(msgsnd(msg, &m, 1, 0));
            SHOW(msgrcv(msg, &m, 1, 0, IPC_NOWAIT));
            SHOW(shmctl(shm, IPC_RMID, NULL));
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    shmctl(shm, IPC_RMID, NULL);
    SHOW(semctl(sem, 0, IPC_RMID));
    SHOW(msgctl(msg, IPC_RMID, NULL));
    SHOW(semctl(sem, 0, IPC_RMID));
    SHOW(msgctl(msg, IPC_STAT, &qd));
    struct shminfo si;
    struct seminfo mi;
    struct msginfo qi;
    SHOW(shmctl(0, IPC_INFO, (void *)&si) >= 0);
    printf("shm %lu %lu %lu\n", si.shmmax, si.shmmin, si.shmmni);
    SHOW(semctl(0, 0, IPC_INFO, &mi) >= 0);
    printf("sem %d %d %d %d %d %d\n", mi.semmni, mi.semmsl, mi.semopm, mi.semume, mi.semvmx, mi.semaem);
    SHOW(msgctl(0, IPC_INFO, (void *)&qi) >= 0);
    printf("msg %d %d %d %d %d\n", qi.msgmax, qi.msgmnb, qi.msgmni, qi.msgssz, qi.msgseg);
    SHOW(shmctl(0, 77, NULL));
    SHOW(semctl(0, 0, 77));
    SHOW(msgctl(0, 77, NULL));
    return 0;
}
