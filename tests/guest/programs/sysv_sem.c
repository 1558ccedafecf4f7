/* Semaphores: atomic operations, waiting in order, undo, time limits, removal, signals. */
#include "event_show.h"
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/sem.h>

static int id;

static int op1(int number, int op, int flags)
{
    struct sembuf b = {number, op, flags};
    return semop(id, &b, 1);
}

static void values(const char *what)
{
    unsigned short v[3];
    semctl(id, 0, GETALL, v);
    printf("%s: %d %d %d\n", what, v[0], v[1], v[2]);
    fflush(stdout);
}

static void wait_count(int command, int number, int count)
{
    while (semctl(id, number, command) != count)
        nap_ms(2);
}

static void on_alarm(int s) {}

int main(void)
{
    SHOW(semget(IPC_PRIVATE, 0, IPC_CREAT | 0600));
    SHOW(semget(IPC_PRIVATE, 32001, IPC_CREAT | 0600));
    SHOW(semget(IPC_PRIVATE, -1, IPC_CREAT | 0600));
    id = semget(IPC_PRIVATE, 3, IPC_CREAT | 0600);
    values("new");
    SHOW(op1(0, 5, 0));
    SHOW(op1(0, -6, IPC_NOWAIT));
    SHOW(op1(0, 0, IPC_NOWAIT));
    SHOW(op1(3, 1, 0));
    SHOW(op1(0, 32767, 0));
    SHOW(semop(id, NULL, 0));
    SHOW(semop(-1, (struct sembuf[]){{0, 1, 0}}, 1));
    SHOW(semop(id, (struct sembuf *)8, 1));
    SHOW(semop(id, (struct sembuf *)8, 501));
    struct sembuf both[] = {{0, -5, 0}, {1, 3, 0}, {0, 0, IPC_NOWAIT}, {2, -1, IPC_NOWAIT}};
    SHOW(semop(id, both, 4));
    values("nothing happened");
    SHOW(semop(id, both, 3));
    values("all of it");
    SHOW(semctl(id, 1, GETPID) == getpid());
    SHOW(semctl(id, 2, GETPID));
    SHOW(semctl(id, 3, GETVAL));
    SHOW(semctl(id, 1, SETVAL, 32768));
    SHOW(semctl(id, 1, SETVAL, -1));
    SHOW(semctl(id, 1, SETVAL, 7));
    unsigned short all[3] = {1, 2, 40000};
    SHOW(semctl(id, 0, SETALL, all));
    all[2] = 3;
    SHOW(semctl(id, 0, SETALL, all));
    values("set");

    struct timespec limit = {0, 20000000};
    struct sembuf down = {0, -2, 0};
    long long before = now_ms();
    SHOW(semtimedop(id, &down, 1, &limit));
    printf("waited %d\n", now_ms() - before >= 20);
    limit.tv_nsec = 1000000000;
    SHOW(semtimedop(id, &down, 1, &limit));

    /* Two children wait; the first that can go on does. */
    all[0] = all[1] = all[2] = 0;
    semctl(id, 0, SETALL, all);
    pid_t a = fork();
    if (!a) {
        int r = op1(0, -3, 0);
        op1(2, 1, 0);
        _exit(r);
    }
    wait_count(GETNCNT, 0, 1);
    pid_t b = fork();
    if (!b)
        _exit(op1(0, -1, 0));
    wait_count(GETNCNT, 0, 2);
    SHOW(op1(0, 1, 0));
    waitpid(b, NULL, 0);
    SHOW(semctl(id, 0, GETNCNT));
    SHOW(op1(0, 3, 0));
    waitpid(a, NULL, 0);
    values("both served");

    /* Waiting for zero. */
    a = fork();
    if (!a)
        _exit(op1(2, 0, 0));
    wait_count(GETZCNT, 2, 1);
    SHOW(op1(2, -1, 0));
    int status;
    waitpid(a, &status, 0);
    printf("zero: %d\n", status);

    /* Undo. */
    a = fork();
    if (!a) {
        op1(0, 4, SEM_UNDO);
        op1(1, 2, 0);
        op1(1, 1, SEM_UNDO);
        op1(1, -1, SEM_UNDO);
        _exit(0);
    }
    waitpid(a, NULL, 0);
    values("undone");
    a = fork();
    if (!a) {
        op1(0, 4, SEM_UNDO);
        semctl(id, 0, SETVAL, 9);
        op1(1, -1, SEM_UNDO);
        _exit(0);
    }
    waitpid(a, NULL, 0);
    values("SETVAL forgets");
    SHOW(semctl(id, 0, GETPID) == a);
    semctl(id, 0, SETVAL, 0);
    a = fork();
    if (!a) {
        op1(0, 2, SEM_UNDO);
        pause();
    }
    while (semctl(id, 0, GETVAL) != 2)
        nap_ms(2);
    b = fork();
    if (!b)
        _exit(op1(0, 0, 0));
    wait_count(GETZCNT, 0, 1);
    kill(a, SIGKILL);
    waitpid(b, &status, 0);
    printf("undo wakes: %d\n", status);
    waitpid(a, NULL, 0);

    /* A signal ends the wait, with SA_RESTART too. */
    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &sa, NULL);
    ualarm(20000, 0);
    SHOW(op1(0, -1, 0));

    /* Removal. */
    a = fork();
    if (!a) {
        SHOW(op1(0, -1, 0));
        _exit(0);
    }
    wait_count(GETNCNT, 0, 1);
    int removed = semctl(id, 0, IPC_RMID);
    waitpid(a, NULL, 0);
    printf("removed %d\n", removed);
    SHOW(op1(0, 1, 0));
    return 0;
}
