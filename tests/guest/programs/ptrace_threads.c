/* Threads as tracees: their events and deaths, execve by a thread that is no leader. */
#include "ptrace_common.h"

#define OPTIONS (PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT)

static char *self;
static void *dies(void *arg) { return NULL; }
static void *execs(void *arg)
{
    char *args[] = {self, "new", NULL};
    execv("/proc/self/exe", args);
    return NULL;
}
static volatile int is_waiting;
static void *waits(void *arg)
{
    is_waiting = 1;
    for (;;)
        pause();
}

static int leader;
static int tids[8], count;

static int name_of(int tid)
{
    for (int i = 0; i < count; i++)
        if (tids[i] == tid)
            return i;
    tids[count] = tid;
    return count++;
}

static char lines[8][4096];
/* A new thread goes on when its birth was told, too: if it came first and went on, its execve could kill the one that
   made it between waitpid and PTRACE_GETEVENTMSG, which is then about that death, on Linux as well. */
static int is_told[8], is_held[8];

static void watch(int options)
{
    int status;
    for (;;) {
        alarm(20);
        int tid = waitpid(-1, &status, __WALL);
        if (tid < 0)
            break;
        int n = name_of(tid);
        char *out = lines[n] + strlen(lines[n]);
        unsigned long message = 0;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            sprintf(out, "%s %d;", WIFEXITED(status) ? "exited" : "killed",
                    WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
            continue;
        }
        int event = status >> 16, signo = WSTOPSIG(status);
        if (event)
            pt(PTRACE_GETEVENTMSG, tid, 0, (long)&message);
        if (event == PTRACE_EVENT_EXEC)
            sprintf(out, "exec by %d;", name_of(message));
        else if (event == PTRACE_EVENT_CLONE) {
            int child = name_of(message);
            sprintf(out, "clone %d;", child);
            is_told[child] = 1;
            if (is_held[child])
                pt(PTRACE_CONT, tids[child], 0, 0);
        }
        else
            sprintf(out, "stop %d event %d message %lx;", signo, event, event == PTRACE_EVENT_STOP ? 0 : message);
        if (n && !is_told[n]) {
            is_held[n] = 1;
            continue;
        }
        if (event || signo == SIGSTOP || signo == SIGTRAP)
            signo = 0;
        pt(PTRACE_CONT, tid, 0, signo);
    }
    for (int i = 0; i < count; i++)
        printf(" %d: %s\n", i, lines[i]);
    count = 0;
    memset(lines, 0, sizeof lines);
    memset(is_told, 0, sizeof is_told);
    memset(is_held, 0, sizeof is_held);
}

static int begin(void (*body)(void), int options)
{
    int status;
    leader = fork();
    if (!leader) {
        pt(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        body();
        _exit(5);
    }
    waitpid(leader, &status, 0);
    pt(PTRACE_SETOPTIONS, leader, 0, options);
    name_of(leader);
    pt(PTRACE_CONT, leader, 0, 0);
    return leader;
}

static void one_after_the_other(void)
{
    pthread_t t;
    for (int i = 0; i < 3; i++) {
        pthread_create(&t, NULL, dies, NULL);
        pthread_join(t, NULL);
        usleep(20000);
    }
}

static void leader_leaves(void)
{
    pthread_t t;
    pthread_create(&t, NULL, dies, NULL);
    pthread_join(t, NULL);
    usleep(20000);
    syscall(SYS_exit, 3);
}

static void thread_execs(void)
{
    pthread_t t;
    pthread_create(&t, NULL, execs, NULL);
    pthread_join(t, NULL);
}

static void all_die(void)
{
    pthread_t t;
    pthread_create(&t, NULL, waits, NULL);
    while (!is_waiting)
        usleep(1000);
    _exit(7);
}

static void killed(void)
{
    pthread_t t;
    pthread_create(&t, NULL, waits, NULL);
    while (!is_waiting)
        usleep(1000);
    kill(getpid(), SIGTERM);
    pause();
}

int main(int argc, char **argv)
{
    start();
    self = argv[0];
    if (argc > 1)
        return 12;
    void (*bodies[])(void) = {one_after_the_other, leader_leaves, thread_execs, all_die, killed};
    for (int i = 0; i < 5; i++) {
        printf("%d\n", i);
        begin(bodies[i], OPTIONS);
        watch(OPTIONS);
    }
    printf("without events of exit\n");
    for (int i = 0; i < 5; i++) {
        printf("%d\n", i);
        begin(bodies[i], PTRACE_O_TRACECLONE);
        watch(PTRACE_O_TRACECLONE);
    }
    return 0;
}
