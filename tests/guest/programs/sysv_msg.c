/* Message queues: types, sizes, full queues, waiting at both ends, removal, signals. */
#include "event_show.h"
#include <sys/ipc.h>
#include <sys/msg.h>

#ifndef MSG_COPY
#define MSG_COPY 040000
#endif

struct text {
    long type;
    char text[9000];
};

static struct text m;
static int id;

static int put(long type, const char *text, int flags)
{
    m.type = type;
    strcpy(m.text, text);
    return msgsnd(id, &m, strlen(text) + 1, flags);
}

static void get(long type, int flags)
{
    memset(&m, 0, 100);
    int n = msgrcv(id, &m, 100, type, flags);
    if (n < 0)
        printf("get %ld %x: %s\n", type, flags, strerrorname_np(errno));
    else
        printf("get %ld %x: %d bytes of type %ld: %.99s\n", type, flags, n, m.type, m.text);
    fflush(stdout);
}

static void on_alarm(int s) {}

int main(void)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    id = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    get(0, IPC_NOWAIT);
    SHOW(put(0, "zero", 0));
    SHOW(put(-1, "negative", 0));
    SHOW(msgsnd(id, &m, 8193, 0));
    SHOW(msgsnd(id, &m, -1, 0));
    SHOW(msgsnd(-1, &m, 1, 0));
    SHOW(msgsnd(id, (void *)8, 1, 0));
    SHOW(put(3, "three", 0));
    SHOW(put(1, "one", 0));
    SHOW(put(2, "two", 0));
    SHOW(put(1, "another one", 0));
    get(2, 0);
    get(-2, 0);
    get(1, MSG_EXCEPT);
    get(5, IPC_NOWAIT);
    SHOW(msgrcv(id, &m, 3, 0, 0));
    SHOW(msgrcv(id, &m, 3, 0, MSG_NOERROR));
    printf("%.3s\n", m.text);
    get(0, IPC_NOWAIT);
    SHOW(msgrcv(id, &m, 3, 0, MSG_COPY));
    SHOW(msgrcv(id, &m, -1, 0, 0));
    m.type = 1;
    SHOW(msgsnd(id, &m, 0, 0));
    SHOW(msgrcv(id, &m, 0, 0, 0));

    struct msqid_ds d;
    int count = 0;
    while (msgsnd(id, &m, 4000, IPC_NOWAIT) == 0)
        count++;
    printf("full after %d: %s\n", count, strerrorname_np(errno));
    msgctl(id, IPC_STAT, &d);
    printf("cbytes %lu qnum %lu lspid %d lrpid %d\n", (unsigned long)d.__msg_cbytes, (unsigned long)d.msg_qnum,
           d.msg_lspid == getpid(), d.msg_lrpid == getpid());
    pid_t child = fork();
    if (!child) {
        m.type = 7;
        int r = msgsnd(id, &m, 4000, 0);
        _exit(r != 0);
    }
    nap_ms(20);
    int status;
    printf("still waiting %d\n", waitpid(child, &status, WNOHANG));
    SHOW(msgrcv(id, &m, 9000, 0, 0));
    waitpid(child, &status, 0);
    printf("sent: %d\n", status);
    while (msgrcv(id, &m, 9000, 0, IPC_NOWAIT) >= 0)
        count--;
    printf("left %d, type of the last %ld\n", count, m.type);

    /* Receivers choose by type. */
    child = fork();
    if (!child) {
        get(5, 0);
        _exit(0);
    }
    int r1 = put(4, "four", 0), r2 = put(5, "five", 0);
    waitpid(child, &status, 0);
    printf("%d %d\n", r1, r2);
    get(0, IPC_NOWAIT);

    struct sigaction sa = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &sa, NULL);
    ualarm(20000, 0);
    get(0, 0);

    /* One that is too long for a receiver that waits. */
    child = fork();
    if (!child) {
        SHOW(msgrcv(id, &m, 2, 9, 0));
        _exit(0);
    }
    nap_ms(30);
    r1 = put(9, "nine", 0);
    waitpid(child, &status, 0);
    printf("%d\n", r1);
    get(9, IPC_NOWAIT);

    child = fork();
    if (!child) {
        get(0, 0);
        _exit(0);
    }
    nap_ms(30);
    r1 = msgctl(id, IPC_RMID, NULL);
    waitpid(child, &status, 0);
    SHOW(put(1, "x", 0));
    return 0;
}
