/* waitid(2): every set of options against a child in every state, and the accounting of children's time. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void ignore(int signo) {}

/* A child that is 0: running, 1: stopped, 2: stopped and continued, 3: dead. */
static pid_t make(int state) {
    pid_t child = fork();
    siginfo_t info;
    if (child == 0) {
        if (state == 3)
            _exit(3);
        for (;;)
            pause();
    }
    if (state == 1 || state == 2) {
        kill(child, SIGSTOP);
        waitid(P_PID, child, &info, WSTOPPED | WNOWAIT);
    }
    if (state == 2) {
        kill(child, SIGCONT);
        waitid(P_PID, child, &info, WCONTINUED | WNOWAIT);
    }
    if (state == 3)
        waitid(P_PID, child, &info, WEXITED | WNOWAIT);
    return child;
}

static long microseconds(int who) {
    struct rusage usage;
    getrusage(who, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

static void who_pays(const char *name, int flags, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags | SA_RESTART};
    long before = microseconds(RUSAGE_CHILDREN); /* of those before, which may be much on a busy machine */
    sigaction(SIGCHLD, &action, NULL);
    if (fork() == 0) {
        while (microseconds(RUSAGE_SELF) < 20000)
            ;
        _exit(0);
    }
    int status = 0, result = wait(&status);
    printf("%s: %d, paid %d\n", name, result > 0, microseconds(RUSAGE_CHILDREN) - before >= 15000);
    fflush(stdout);
}

int main(void) {
    static const int kinds[] = {WEXITED, WSTOPPED, WCONTINUED};
    for (int state = 0; state < 4; state++)
        for (int set = 0; set < 8; set++)
            for (int how = 0; how < 4; how++) {
                int options = (how & 1 ? WNOHANG : 0) | (how & 2 ? WNOWAIT : 0);
                int can = state == 3 ? 0 : state;
                for (int k = 0; k < 3; k++)
                    options |= set >> k & 1 ? kinds[k] : 0;
                /* Without WNOHANG only the cases that have an answer: the others wait for ever. */
                int answers = !set || (state == 3) || (state == 1 && set & 2) || (state == 2 && set & 4);
                if (!(how & 1) && !answers)
                    continue;
                pid_t child = make(state);
                siginfo_t info;
                memset(&info, 0, sizeof info);
                errno = 0;
                int result = waitid(P_ALL, 0, &info, options);
                printf("%d %x: %d %d code %d status %d own %d", can + (state == 3) * 3, options, result,
                       result < 0 ? errno : 0, info.si_code, info.si_status, info.si_pid == child);
                errno = 0;
                result = waitid(P_PID, child, &info, options | WNOHANG);
                printf("; again %d %d\n", result, result < 0 ? errno : 0);
                kill(child, SIGKILL);
                waitpid(child, NULL, 0);
            }
    fflush(stdout);
    who_pays("ignored", 0, SIG_IGN);
    who_pays("not waited for", SA_NOCLDWAIT, ignore);
    who_pays("waited for", 0, SIG_DFL);
    return 0;
}
