/* Threads share their adjustments: a thread's end undoes nothing, the process's end does. */
#include "event_show.h"
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/sem.h>

static int id;

static void *up(void *arg)
{
    struct sembuf b = {0, 1, SEM_UNDO};
    semop(id, &b, 1);
    return NULL;
}

int main(void)
{
    id = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 5; i++) {
            pthread_t t;
            pthread_create(&t, NULL, up, NULL);
            pthread_join(t, NULL);
        }
        SHOW(semctl(id, 0, GETVAL));
        pid_t grandchild = fork();
        if (grandchild == 0) {
            up(NULL);
            SHOW(semctl(id, 0, GETVAL));
            _exit(0);
        }
        waitpid(grandchild, NULL, 0);
        SHOW(semctl(id, 0, GETVAL));
        _exit(0);
    }
    waitpid(child, NULL, 0);
    SHOW(semctl(id, 0, GETVAL));
    SHOW(semctl(id, 0, IPC_RMID));
    return 0;
}
