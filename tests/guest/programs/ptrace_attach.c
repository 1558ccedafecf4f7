/* PTRACE_ATTACH: to a computing, a waiting and a stopped process; detaching; errors. */
#include "ptrace_common.h"

static volatile int *word;
static int fds[2];

static int make(void (*body)(void))
{
    int pid = fork();
    if (!pid) {
        alarm(30);
        body();
        fflush(stdout);
        _exit(0);
    }
    return pid;
}

static void compute(void)
{
    while (!word[0])
        word[1]++;
    printf("computed\n");
}

static void reads(void)
{
    char c;
    word[2] = 1;
    long n = read(fds[0], &c, 1);
    printf("read %ld %c\n", n, c);
}

static void sleeps(void)
{
    struct timespec t = {0, 400000000}, left;
    word[2] = 1;
    int result = nanosleep(&t, &left);
    printf("slept %d\n", result);
}

static void pauses(void)
{
    word[2] = 1;
    pause();
    printf("pause returned\n");
}

static void *attach_sibling(void *arg)
{
    printf("sibling: ");
    T(pt(PTRACE_ATTACH, *(int *)arg, 0, 0));
    return NULL;
}

int main(void)
{
    start();
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pipe(fds);
    int status;

    T(pt(PTRACE_ATTACH, 0x3ffffff, 0, 0));
    T(pt(PTRACE_ATTACH, getpid(), 0, 0));
    T(pt(PTRACE_CONT, getpid(), 0, 0));
    T(pt(PTRACE_CONT, 0x3ffffff, 0, 0));
    pthread_t thread;
    int self = getpid();
    pthread_create(&thread, NULL, attach_sibling, &self);
    pthread_join(thread, NULL);

    /* One that computes. */
    int pid = make(compute);
    while (!word[1])
        usleep(100);
    T(pt(PTRACE_GETREGS, pid, 0, (long)&status));
    T(pt(PTRACE_ATTACH, pid, 0, 0));
    step("computing", pid);
    T(pt(PTRACE_ATTACH, pid, 0, 0));
    int before = word[1];
    usleep(20000);
    printf("stands still %d, state %c\n", word[1] == before, state_of(pid));
    struct user_regs_struct r;
    T(pt(PTRACE_GETREGS, pid, 0, (long)&r));
    printf("orig %lld\n", (long long)r.orig_rax);
    T(pt(PTRACE_DETACH, pid, 0, 0));
    T(pt(PTRACE_GETREGS, pid, 0, (long)&r));
    while (word[1] == before)
        usleep(100);
    word[0] = 1;
    step("detached", pid);

    /* Those that wait: their calls go on. */
    void (*bodies[])(void) = {reads, sleeps, pauses};
    for (int i = 0; i < 3; i++) {
        word[2] = 0;
        pid = make(bodies[i]);
        while (!word[2])
            usleep(100);
        until_state(pid, "S");
        T(pt(PTRACE_ATTACH, pid, 0, 0));
        step("waiting", pid);
        pt(PTRACE_GETREGS, pid, 0, (long)&r);
        printf("orig %lld rax %lld\n", (long long)r.orig_rax, (long long)r.rax);
        T(pt(PTRACE_CONT, pid, 0, 0));
        if (i == 0)
            write(fds[1], "q", 1);
        if (i == 2) {
            until_state(pid, "S");
            kill(pid, SIGUSR1);
            step("usr1", pid);
            T(pt(PTRACE_DETACH, pid, 0, SIGTERM));
        }
        step("end", pid);
    }

    /* One that is stopped. */
    word[2] = 0;
    pid = make(pauses);
    while (!word[2])
        usleep(100);
    kill(pid, SIGSTOP);
    waitpid(pid, &status, WUNTRACED);
    show("stopped", status);
    T(pt(PTRACE_ATTACH, pid, 0, 0));
    step("attached", pid);
    printf("state %c\n", state_of(pid));
    T(pt(PTRACE_CONT, pid, 0, 0));
    step("the attach's own stop", pid);
    T(pt(PTRACE_CONT, pid, 0, 0));
    until_state(pid, "S");
    kill(pid, SIGCONT);
    step("cont", pid);
    T(pt(PTRACE_CONT, pid, 0, SIGCONT));
    until_state(pid, "S");
    kill(pid, SIGSTOP);
    step("stop", pid);
    T(pt(PTRACE_CONT, pid, 0, SIGSTOP));
    step("group stop", pid);
    siginfo_t si;
    T(pt(PTRACE_GETSIGINFO, pid, 0, (long)&si));
    T(pt(PTRACE_DETACH, pid, 0, 0));
    until_state(pid, "T");
    printf("state %c\n", state_of(pid));
    kill(pid, SIGCONT);
    kill(pid, SIGKILL);
    step("end", pid);

    /* A zombie. */
    pid = fork();
    if (!pid)
        _exit(1);
    until_state(pid, "Z");
    T(pt(PTRACE_ATTACH, pid, 0, 0));
    T(pt(PTRACE_SEIZE, pid, 0, 0));
    step("zombie", pid);
    T(pt(PTRACE_ATTACH, pid, 0, 0));

    /* TracerPid. */
    pid = make(pauses);
    T(pt(PTRACE_ATTACH, pid, 0, 0));
    step("attached", pid);
    char name[64], text[4096] = "";
    sprintf(name, "/proc/%d/status", pid);
    int fd = open(name, O_RDONLY);
    read(fd, text, sizeof text - 1);
    char *line = strstr(text, "TracerPid:");
    printf("tracer %d\n", line && atoi(line + 10) == getpid());
    kill(pid, SIGKILL);
    step("end", pid);
    return 0;
}
