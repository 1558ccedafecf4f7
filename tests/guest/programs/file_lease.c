/* Leases: who may have one, who breaks it, the holder's signals, the breaker's wait. */
#include "file_common.h"
#include <sys/syscall.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int got, got_fd, got_code, got_band;
static int held;

static void handler(int signo, siginfo_t *info, void *context)
{
    got++;
    got_fd = info->si_fd;
    got_code = info->si_code;
    got_band = (int)info->si_band;
}

static void show(const char *what)
{
    printf("%s: %d", what, got);
    if (got)
        printf(" same %d code %d band %x", got_fd == held, got_code, got_band);
    printf("\n");
    fflush(stdout);
    got = 0;
}

static void show_locks(void)
{
    char line[256], kind[32], state[32], mode[32], range[64];
    FILE *f = fopen("/proc/locks", "r");
    int pid;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "%*d: %31s %31s %31s %d %*s %63[^\n]", kind, state, mode, &pid, range) == 5 &&
            !strcmp(kind, "LEASE") && pid == getpid())
            printf("  %s %s %s %s\n", kind, state, mode, range);
    fclose(f);
}

static sigset_t both;

/* A child that does something which waits; the parent gives its lease up when it is told. */
static void breaking(const char *what, int fd, int answer, int flags)
{
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        close(fd);
        errno = 0;
        int other = flags < 0 ? truncate("f", 3) : open("f", flags);
        _exit(other >= 0 ? 0 : errno);
    }
    siginfo_t info;
    int signo = sigwaitinfo(&both, &info);
    printf("%s: told %d fd %d code %d band %lx, lease %d\n", what, signo == SIGUSR1, info.si_fd == fd, info.si_code,
           info.si_band, fcntl(fd, F_GETLEASE));
    show_locks();
    T(fcntl(fd, F_SETLEASE, answer));
    int status;
    waitpid(child, &status, 0);
    printf("%s: %x, lease now %d\n", what, status, fcntl(fd, F_GETLEASE));
    fflush(stdout);
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGIO, &action, NULL);
    sigemptyset(&both);
    sigaddset(&both, SIGUSR1);
    put_file("f", "hello, world");
    mkdir("d", 0777);

    /* what can have one */
    int p[2], d = open("d", O_RDONLY), path = open("f", O_PATH);
    pipe(p);
    T(fcntl(d, F_SETLEASE, F_RDLCK));
    T(fcntl(p[0], F_SETLEASE, F_RDLCK));
    T(fcntl(path, F_SETLEASE, F_RDLCK));
    T(fcntl(path, F_GETLEASE));
    T(fcntl(d, F_GETLEASE));
    int m = memfd_create("m", 0);
    T(fcntl(m, F_SETLEASE, F_WRLCK));
    close(d);

    /* who else has it open */
    int r = open("f", O_RDONLY);
    T(fcntl(r, F_SETLEASE, 7));
    T(fcntl(r, F_SETLEASE, F_UNLCK));
    T(fcntl(r, F_GETLEASE));
    T(fcntl(r, F_SETLEASE, F_RDLCK));
    T(fcntl(r, F_GETLEASE));
    T(fcntl(r, F_GETOWN) == getpid());
    show_locks();
    T(fcntl(r, F_SETLEASE, F_WRLCK));
    T(fcntl(r, F_GETLEASE));
    T(fcntl(r, F_SETLEASE, F_RDLCK));
    int r2 = open("f", O_RDONLY);
    T(r2 >= 0);
    T(fcntl(r, F_SETLEASE, F_WRLCK));
    T(fcntl(r2, F_SETLEASE, F_RDLCK));
    T(fcntl(r2, F_SETLEASE, F_WRLCK));
    show_locks();
    T(fcntl(r2, F_SETLEASE, F_UNLCK));
    T(fcntl(r2, F_GETOWN));
    T(fcntl(r2, F_SETLEASE, F_UNLCK));
    close(r2);

    /* an opener that does not wait; SIGIO without F_SETSIG */
    held = r;
    T(open("f", O_WRONLY | O_NONBLOCK));
    printf("SIGIO %d\n", got);
    got = 0;
    T(fcntl(r, F_GETLEASE));
    show_locks();
    T(open("f", O_WRONLY | O_NONBLOCK));
    show("again");
    T(close(open("f", O_RDONLY | O_NONBLOCK)));
    int r3 = open("f", O_RDONLY);
    T(fcntl(r3, F_SETLEASE, F_RDLCK));
    close(r3);
    T(fcntl(r, F_SETLEASE, F_RDLCK));
    T(fcntl(r, F_GETLEASE));
    T(fcntl(r, F_SETLEASE, F_UNLCK));
    T(fcntl(r, F_GETLEASE));
    T(fcntl(r, F_GETSIG));
    int w = open("f", O_WRONLY | O_NONBLOCK);
    T(fcntl(r, F_SETLEASE, F_RDLCK));
    T(fcntl(w, F_SETLEASE, F_RDLCK));
    T(fcntl(w, F_SETLEASE, F_WRLCK));
    close(r);
    T(fcntl(w, F_SETLEASE, F_WRLCK));
    int copy = dup(w);
    T(fcntl(copy, F_GETLEASE));
    T(fcntl(w, F_SETSIG, SIGUSR1));
    held = w;
    T(open("f", O_RDONLY | O_NONBLOCK));
    show("read");
    T(fcntl(w, F_GETLEASE));
    T(open("f", O_RDWR | O_NONBLOCK));
    show("write too");
    T(fcntl(w, F_GETLEASE));
    T(fcntl(w, F_SETLEASE, F_RDLCK));
    T(open("f", O_RDONLY | O_NONBLOCK) >= 0);
    close(copy);
    T(fcntl(w, F_GETLEASE));
    close(w);
    T(open("f", O_RDWR | O_NONBLOCK) >= 0);
    show("none is left");

    /* those that wait */
    sigprocmask(SIG_BLOCK, &both, NULL);
    unlink("f");
    put_file("f", "hello, world");
    r = open("f", O_RDONLY);
    fcntl(r, F_SETSIG, SIGUSR1);
    T(fcntl(r, F_SETLEASE, F_RDLCK));
    breaking("open to write", r, F_UNLCK, O_WRONLY);
    fcntl(r, F_SETSIG, SIGUSR1);
    T(fcntl(r, F_SETLEASE, F_RDLCK));
    breaking("truncate", r, F_UNLCK, -1);
    show_file("f");
    fcntl(r, F_SETSIG, SIGUSR1);
    T(fcntl(r, F_SETLEASE, F_WRLCK));
    breaking("open to read", r, F_RDLCK, O_RDONLY);
    breaking("open both", r, F_UNLCK, O_RDWR | O_TRUNC);
    show_file("f");

    /* what does not break one */
    fcntl(r, F_SETSIG, SIGUSR1);
    T(fcntl(r, F_SETLEASE, F_WRLCK));
    T(chmod("f", 0600));
    T(rename("f", "g"));
    T(link("g", "f"));
    T(unlink("g"));
    T(open("f", O_PATH) >= 0);
    T(fcntl(r, F_GETLEASE));

    close(r);

    /* a breaker that is interrupted */
    r = open("f", O_RDONLY);
    T(fcntl(r, F_SETLEASE, F_RDLCK));
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        close(r);
        sigaction(SIGALRM, &action, NULL);
        struct itimerval often = {{0, 50000}, {0, 50000}};
        setitimer(ITIMER_REAL, &often, NULL);
        T(open("f", O_WRONLY));
        T(truncate("f", 1));
        _exit(0);
    }
    while (waitpid(child, NULL, 0) < 0)
        ;
    T(fcntl(r, F_SETLEASE, F_UNLCK));

    /* another user's file */
    fflush(stdout);
    if (!fork()) {
        T(setresgid(1000, 1000, 1000));
        T(setresuid(1000, 1000, 1000));
        T(fcntl(r, F_SETLEASE, F_RDLCK));
        T(fcntl(r, F_SETLEASE, F_UNLCK));
        T(fcntl(m, F_SETLEASE, F_UNLCK));
        T(fcntl(p[0], F_SETLEASE, F_RDLCK));
        _exit(0);
    }
    wait(NULL);
    return 0;
}
