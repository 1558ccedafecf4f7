/* seccomp(2): filters by number and argument, actions, precedence, inheritance over fork and exec. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip)
#define RET(action) BPF_STMT(BPF_RET | BPF_K, action)

static long install(struct sock_filter *code, int count, int flags) {
    struct sock_fprog program = {count, code};
    errno = 0;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static long on_call(int number, unsigned action, int flags) {
    struct sock_filter code[] = {LOAD(nr), IF(number, 1), RET(action), RET(SECCOMP_RET_ALLOW)};
    return install(code, 4, flags);
}

static void on_sys(int signo, siginfo_t *info, void *context) {
    printf("SIGSYS code %d errno %d syscall %d arch %d\n", info->si_code, info->si_errno, info->si_syscall == SYS_uname,
           info->si_arch == AUDIT_ARCH_X86_64);
}

static void *other_thread(void *arg) {
    errno = 0;
    long r = syscall(SYS_getpriority, 0, 0);
    printf("thread %ld %d\n", r, errno);
    return arg;
}

static void status(void) {
    char line[128];
    FILE *f = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "Seccomp", 7) || !strncmp(line, "NoNewPrivs", 10)) printf("%s", line);
    fclose(f);
}

static void in_child(void (*body)(void)) {
    int state;
    fflush(stdout);
    if (fork() == 0) {
        body();
        fflush(stdout);
        _exit(0);
    }
    wait(&state);
    if (WIFSIGNALED(state)) printf("killed by %d\n", WTERMSIG(state));
    else printf("exit %d\n", WEXITSTATUS(state));
}

static void kill_process(void) { on_call(SYS_getppid, SECCOMP_RET_KILL_PROCESS, 0); syscall(SYS_getppid); }
static void kill_thread(void) { on_call(SYS_getppid, SECCOMP_RET_KILL_THREAD, 0); syscall(SYS_getppid); }
static void strict(void) {
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    write(1, "strict\n", 7);
    syscall(SYS_getppid);
}
static void strict_exit(void) {
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    syscall(SYS_exit, 9);
}
static void after_exec(void) {
    on_call(SYS_sethostname, SECCOMP_RET_ERRNO | 77, 0);
    fflush(stdout);
    execl("/proc/self/exe", "misc_seccomp", "again", NULL);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        errno = 0;
        printf("after exec %ld", syscall(SYS_sethostname, "x", 1));
        printf(" %d mode %d\n", errno, prctl(PR_GET_SECCOMP));
        return 0;
    }
    struct sock_filter bad[] = {RET(SECCOMP_RET_ALLOW), LOAD(nr)}, far[] = {IF(1, 5), RET(0)}, odd[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 2), RET(0)};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    printf("bad %ld", install(bad, 2, 0));
    printf(" %d\n", errno);
    printf("far %ld", install(far, 2, 0));
    printf(" %d\n", errno);
    printf("odd %ld", install(odd, 2, 0));
    printf(" %d\n", errno);
    printf("empty %ld", install(odd, 0, 0));
    printf(" %d\n", errno);
    unsigned action = SECCOMP_RET_ERRNO, unknown = 0x12340000;
    printf("available %ld", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
    printf(" %ld", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &unknown));
    printf(" %d\n", errno);
    printf("operation %ld", syscall(SYS_seccomp, 99, 0, NULL));
    printf(" %d\n", errno);
    in_child(kill_process);
    in_child(kill_thread);
    in_child(strict);
    in_child(strict_exit);
    in_child(after_exec);
    printf("install %ld\n", on_call(SYS_getpriority, SECCOMP_RET_ERRNO | 55, 0));
    printf("%ld", syscall(SYS_getpriority, 0, 0));
    printf(" %d\n", errno);
    /* By argument: write(2) to descriptor 99 only. */
    struct sock_filter by_argument[] = {LOAD(nr), IF(SYS_write, 3), LOAD(args[0]), IF(99, 1), RET(SECCOMP_RET_ERRNO | 66), RET(SECCOMP_RET_ALLOW)};
    printf("install %ld\n", install(by_argument, 6, 0));
    errno = 0;
    printf("%zd", write(99, "x", 1));
    printf(" %d", errno);
    printf(" %zd", write(98, "x", 1));
    printf(" %d\n", errno);
    /* The most severe verdict wins; with equal ones the newest. */
    on_call(SYS_getpriority, SECCOMP_RET_ERRNO | 44, 0);
    on_call(SYS_getpriority, SECCOMP_RET_TRACE, 0);
    errno = 0;
    printf("%ld", syscall(SYS_getpriority, 0, 0));
    printf(" %d\n", errno);
    struct sigaction action_sys = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
    sigaction(SIGSYS, &action_sys, NULL);
    on_call(SYS_uname, SECCOMP_RET_TRAP | 12, 0);
    printf("after trap %d\n", syscall(SYS_uname, NULL) == SYS_uname);
    on_call(SYS_sched_yield, SECCOMP_RET_TRACE, 0);
    errno = 0;
    printf("trace without tracer %ld", syscall(SYS_sched_yield));
    printf(" %d\n", errno);
    pthread_t t;
    pthread_create(&t, NULL, other_thread, NULL);
    pthread_join(t, NULL);
    status();
    printf("mode %d, back to strict %d", prctl(PR_GET_SECCOMP), prctl(PR_SET_SECCOMP, 1));
    printf(" %d\n", errno);
    return 0;
}
