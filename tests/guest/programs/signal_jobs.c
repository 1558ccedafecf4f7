/* Job control: terminal stops and orphaned process groups, SIGHUP and SIGCONT to a stopped job that loses its shell. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int fds[2];

static void say(const char *text)
{
    write(fds[1], text, strlen(text));
}

static void on_hup(int signo)
{
    say("hup ");
}

static void on_cont(int signo)
{
    say("cont ");
}

int main(void)
{
    int status;
    /* A job of ours: not orphaned, SIGTSTP stops it. */
    pid_t child = fork();
    if (!child) {
        setpgid(0, 0);
        raise(SIGTSTP);
        _exit(3);
    }
    waitpid(child, &status, WUNTRACED);
    printf("job stopped %d by %d\n", WIFSTOPPED(status), WIFSTOPPED(status) ? WSTOPSIG(status) : 0);
    kill(child, SIGCONT);
    waitpid(child, &status, 0);
    printf("job exited %d\n", WEXITSTATUS(status));
    /* A new session's leader is orphaned: the terminal's stops do nothing. */
    child = fork();
    if (!child) {
        setsid();
        raise(SIGTSTP);
        raise(SIGTTIN);
        raise(SIGTTOU);
        _exit(4);
    }
    waitpid(child, &status, WUNTRACED);
    printf("orphan stopped %d exited %d\n", WIFSTOPPED(status), WEXITSTATUS(status));
    /* A shell that dies with a stopped job. */
    fflush(stdout);
    pipe(fds);
    pid_t shell = fork();
    if (!shell) {
        setsid();
        pid_t job = fork();
        if (!job) {
            sigset_t set, old;
            setpgid(0, 0);
            sigemptyset(&set);
            sigaddset(&set, SIGHUP);
            sigaddset(&set, SIGCONT);
            signal(SIGHUP, on_hup);
            signal(SIGCONT, on_cont);
            raise(SIGSTOP);
            say("done");
            _exit(0);
        }
        waitpid(job, &status, WUNTRACED);
        _exit(WIFSTOPPED(status) ? 0 : 1);
    }
    waitpid(shell, &status, 0);
    printf("shell %d\n", WEXITSTATUS(status));
    close(fds[1]);
    char text[100];
    int n = 0, r;
    while ((r = read(fds[0], text + n, sizeof text - 1 - n)) > 0)
        n += r;
    text[n] = 0;
    printf("hup %d cont %d done %d\n", strstr(text, "hup") != NULL, strstr(text, "cont") != NULL, strstr(text, "done") != NULL);
    return 0;
}
