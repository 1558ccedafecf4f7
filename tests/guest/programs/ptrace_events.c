/* PTRACE_O_TRACE*: fork, vfork, clone, exec, exit, and the first stops of the children. */
#include "ptrace_common.h"

#define ALL (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | \
             PTRACE_O_TRACEEXEC | PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACEEXIT)

static int known[16], count;

/* Pids as small numbers, in the order of their first appearance. */
static int number(int pid)
{
    for (int i = 0; i < count; i++)
        if (known[i] == pid)
            return i;
    known[count] = pid;
    return count++;
}

static void *thread_body(void *arg) { return arg; }

static char stack[65536];
static int clone_body(void *arg) { _exit(6); }

static void child(int what, char *self)
{
    int pid, status;
    switch (what) {
    case 0:
        pid = fork();
        if (!pid)
            _exit(3);
        waitpid(pid, &status, 0);
        _exit(WEXITSTATUS(status) + 1);
    case 1:
        pid = vfork();
        if (!pid)
            _exit(4);
        waitpid(pid, &status, 0);
        _exit(WEXITSTATUS(status) + 1);
    case 2: {
        pthread_t t;
        pthread_create(&t, NULL, thread_body, NULL);
        pthread_join(t, NULL);
        usleep(50000); /* the thread's exit status becomes the group's when that ends */
        _exit(8);
    }
    case 3: {
        char *args[] = {self, "exec", NULL};
        execv("/proc/self/exe", args);
        _exit(1);
    }
    case 4:
        kill(getpid(), SIGTERM);
        _exit(1);
    case 5:
        pid = clone(clone_body, stack + sizeof stack, SIGUSR1, NULL);
        waitpid(pid, &status, __WALL);
        _exit(WEXITSTATUS(status) + 1);
    case 6:
        pid = vfork();
        if (!pid) {
            char *args[] = {self, "exec", NULL};
            execv("/proc/self/exe", args);
            _exit(1);
        }
        waitpid(pid, &status, 0);
        _exit(WEXITSTATUS(status) + 1);
    }
}

/* Events of each process in its own order: Linux does not promise which of two comes first. */
static char lines[16][4096];

static void watch(int pid, int seized)
{
    int status;
    count = 0;
    memset(lines, 0, sizeof lines);
    number(pid);
    for (;;) {
        alarm(20);
        int got = waitpid(-1, &status, __WALL);
        if (got < 0)
            break;
        int n = number(got), signo = 0;
        char *out = lines[n] + strlen(lines[n]);
        if (WIFEXITED(status)) {
            sprintf(out, "exited %d;", WEXITSTATUS(status));
            continue;
        }
        if (WIFSIGNALED(status)) {
            sprintf(out, "killed %d;", WTERMSIG(status));
            continue;
        }
        int event = status >> 16;
        unsigned long text = 0;
        if (event && event != PTRACE_EVENT_STOP) {
            pt(PTRACE_GETEVENTMSG, got, 0, (long)&text);
            if (event == PTRACE_EVENT_EXIT)
                sprintf(out, "event %d status %lx;", event, text);
            else
                sprintf(out, "event %d message %d;", event, number(text));
        } else {
            sprintf(out, "stop %d event %d;", WSTOPSIG(status), event);
            signo = WSTOPSIG(status);
            if (event || signo == SIGSTOP || signo == SIGTRAP)
                signo = 0;
        }
        pt(PTRACE_CONT, got, 0, signo);
    }
    for (int i = 0; i < count; i++)
        printf(" %d: %s\n", i, lines[i]);
}

int main(int argc, char **argv)
{
    start();
    if (argc > 1)
        return 9;
    for (int seized = 0; seized < 2; seized++)
        for (int what = 0; what < 7; what++) {
            printf("%s %d\n", seized ? "seized" : "attached", what);
            int pid = fork();
            if (!pid) {
                if (!seized)
                    pt(PTRACE_TRACEME, 0, 0, 0);
                raise(SIGSTOP);
                child(what, argv[0]);
            }
            int status;
            alarm(20);
            waitpid(pid, &status, WUNTRACED);
            if (seized) {
                if (pt(PTRACE_SEIZE, pid, 0, ALL))
                    perror("seize");
                kill(pid, SIGCONT);
            } else {
                pt(PTRACE_SETOPTIONS, pid, 0, ALL);
                pt(PTRACE_CONT, pid, 0, 0);
            }
            watch(pid, seized);
        }
    return 0;
}
