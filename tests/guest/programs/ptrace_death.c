/* Tracees whose tracer dies, and dead tracees. */
#include "ptrace_common.h"

static int *shared;

static int helper(void (*body)(int), int arg)
{
    int pid = fork();
    if (!pid) {
        alarm(20);
        body(arg);
        _exit(0);
    }
    return pid;
}

static void loop(int unused)
{
    shared[1] = 1;
    for (;;)
        pause();
}

/* Tracers that end in different ways. */
static void tracer(int how)
{
    int pid = shared[0], status;
    if (how == 3 || how == 5)
        pt(PTRACE_SEIZE, pid, 0, how == 5 ? PTRACE_O_EXITKILL : 0);
    else
        pt(PTRACE_ATTACH, pid, 0, 0);
    if (how == 3 || how == 5)
        pt(PTRACE_INTERRUPT, pid, 0, 0);
    waitpid(pid, &status, __WALL);
    if (how == 1 || how == 4)
        pt(PTRACE_SETOPTIONS, pid, 0, how == 4 ? PTRACE_O_EXITKILL : 0);
    if (how == 1)
        pt(PTRACE_CONT, pid, 0, 0);
    if (how == 6) {
        pt(PTRACE_SYSCALL, pid, 0, 0);
        waitpid(pid, &status, __WALL);
    }
    if (how == 2)
        raise(SIGKILL);
    shared[2] = 1;
}

static void *thread_tracer(void *arg)
{
    int status, pid = shared[0];
    pt(PTRACE_ATTACH, pid, 0, 0);
    waitpid(pid, &status, __WALL);
    printf("thread: status %x\n", status);
    return NULL;
}

static void *other_thread(void *arg)
{
    int status, pid = shared[0];
    T(pt(PTRACE_CONT, pid, 0, 0) == -1 && errno == ESRCH);
    T(waitpid(pid, &status, __WALL | __WNOTHREAD | WNOHANG));
    return NULL;
}

int main(void)
{
    start();
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status;
    for (int how = 0; how < 7; how++) {
        shared[1] = 0;
        shared[0] = helper(loop, 0);
        while (!shared[1])
            usleep(100);
        until_state(shared[0], "S");
        int t = helper(tracer, how);
        printf("%d: ", how);
        step("tracer", t);
        if (how == 4 || how == 5) {
            step(" with its tracer", shared[0]);
            continue;
        }
        until_state(shared[0], "S");
        char name[64], text[4096] = "";
        sprintf(name, "/proc/%d/status", shared[0]);
        int fd = open(name, O_RDONLY);
        read(fd, text, sizeof text - 1);
        close(fd);
        printf(" free %d state %c\n", strstr(text, "TracerPid:\t0") != NULL, state_of(shared[0]));
        T(waitpid(shared[0], &status, WNOHANG | WUNTRACED));
        kill(shared[0], SIGTERM);
        step(" end", shared[0]);
    }

    /* The real parent hears of the death after the tracer. */
    int go[2], ready[2];
    pipe(go);
    pipe(ready);
    shared[1] = 0;
    shared[0] = helper(loop, 0);
    while (!shared[1])
        usleep(100);
    int t = fork();
    if (!t) {
        alarm(20);
        char c;
        pt(PTRACE_ATTACH, shared[0], 0, 0);
        quiet(shared[0]);
        pt(PTRACE_CONT, shared[0], 0, 0);
        write(ready[1], "r", 1);
        read(go[0], &c, 1);
        step("tracer sees", shared[0]);
        printf("again %d\n", waitpid(shared[0], &status, __WALL | WNOHANG));
        write(ready[1], "r", 1);
        read(go[0], &c, 1);
        _exit(0);
    }
    char c;
    read(ready[0], &c, 1);
    kill(shared[0], SIGTERM);
    /* SIGTERM is seen by the tracer first. */
    usleep(1000);
    printf("parent sees %d\n", waitpid(shared[0], &status, WNOHANG));
    write(go[1], "g", 1);
    read(ready[0], &c, 1);
    kill(shared[0], SIGKILL);
    until_state(shared[0], "Z");
    printf("zombie %c, parent sees %d\n", state_of(shared[0]), waitpid(shared[0], &status, WNOHANG));
    write(go[1], "g", 1);
    quiet(t);
    step("parent sees at last", shared[0]);

    /* The same, and the tracer waits for it. */
    shared[1] = 0;
    shared[0] = helper(loop, 0);
    while (!shared[1])
        usleep(100);
    t = fork();
    if (!t) {
        alarm(20);
        pt(PTRACE_SEIZE, shared[0], 0, 0);
        write(ready[1], "r", 1);
        read(go[0], &c, 1);
        step("tracer sees", shared[0]);
        _exit(0);
    }
    read(ready[0], &c, 1);
    kill(shared[0], SIGKILL);
    until_state(shared[0], "Z");
    T(waitpid(shared[0], &status, WNOHANG));
    write(go[1], "g", 1);
    quiet(t);
    step("parent sees", shared[0]);

    /* A tracer is a thread. */
    shared[1] = 0;
    shared[0] = helper(loop, 0);
    while (!shared[1])
        usleep(100);
    pthread_t thread;
    pthread_create(&thread, NULL, thread_tracer, NULL);
    pthread_join(thread, NULL);
    until_state(shared[0], "S");
    T(pt(PTRACE_CONT, shared[0], 0, 0));
    T(pt(PTRACE_ATTACH, shared[0], 0, 0));
    step("attached", shared[0]);
    pthread_create(&thread, NULL, other_thread, NULL);
    pthread_join(thread, NULL);
    kill(shared[0], SIGKILL);
    step("end", shared[0]);
    return 0;
}
