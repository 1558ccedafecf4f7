#include "file_common.h"

static volatile int hits;
static void on_signal(int s) { hits++; }

static void catch(int signo, int flags)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = flags};
    sigaction(signo, &sa, 0);
}

static void later(int us)
{
    struct itimerval it = {{0, 0}, {0, us}};
    setitimer(ITIMER_REAL, &it, 0);
}

int main(void)
{
    static char big[200000];
    char b[100];
    int p[2];
    pipe(p);
    fflush(stdout);
    if (fork() == 0) {
        struct timespec nap = {0, 30000000};
        nanosleep(&nap, 0);
        write(p[1], "late", 4);
        exit(0);
    }
    T(read(p[0], b, 100));
    wait(0);
    catch(SIGALRM, 0);
    later(30000);
    T(read(p[0], b, 100));
    later(30000);
    T(write(p[1], big, sizeof big));
    T(read(p[0], big, sizeof big));
    catch(SIGALRM, SA_RESTART);
    later(30000);
    fflush(stdout);
    if (fork() == 0) {
        struct timespec nap = {0, 80000000};
        nanosleep(&nap, 0);
        write(p[1], "after", 5);
        exit(0);
    }
    T(read(p[0], b, 100));
    wait(0);
    printf("hits %d\n", hits);
    fflush(stdout);
    if (fork() == 0) {
        long total = 0, n;
        close(p[1]);
        while ((n = read(p[0], b, 100)) > 0)
            total += n;
        printf("total %ld\n", total);
        exit(0);
    }
    close(p[0]);
    T(write(p[1], big, sizeof big));
    close(p[1]);
    wait(0);
    pipe(p);
    close(p[0]);
    catch(SIGPIPE, 0);
    hits = 0;
    T(write(p[1], "x", 1));
    T(write(p[1], "x", 0));
    printf("hits %d\n", hits);
    signal(SIGPIPE, SIG_IGN);
    T(write(p[1], "x", 1));
    fflush(stdout);
    if (fork() == 0) {
        signal(SIGPIPE, SIG_DFL);
        write(p[1], "x", 1);
        exit(0);
    }
    int st;
    wait(&st);
    printf("killed by %d\n", WTERMSIG(st));
    close(p[1]);
    pipe2(p, O_NONBLOCK);
    T(read(p[0], b, 1));
    T(write(p[1], big, sizeof big));
    T(write(p[1], big, 1));
    T(read(p[0], b, 100));
    T(write(p[1], big, 100));
    T(read(p[0], big, 4096));
    T(write(p[1], big, 5000));
    close(p[1]);
    T(read(p[0], big, sizeof big));
    T(read(p[0], big, sizeof big));
    return 0;
}
