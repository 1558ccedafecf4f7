/* Blocking reads and writes between processes; large transfers; interruption with and without SA_RESTART. */
#include "event_show.h"

static void on_alarm(int s) {}

int main(void)
{
    int p[2], q[2], status;
    static char b[1 << 20];
    pipe(p);
    pipe(q);
    if (!fork()) {
        long total = 0, n;
        unsigned sum = 0;
        close(p[1]);
        while ((n = read(p[0], b, 10007)) > 0) {
            for (long i = 0; i < n; i++)
                sum = sum * 31 + (unsigned char)b[i];
            total += n;
        }
        printf("child read %ld sum %u\n", total, sum);
        fflush(stdout);
        write(q[1], "k", 1);
        _exit(0);
    }
    close(p[0]);
    for (int i = 0; i < (int)sizeof b; i++)
        b[i] = i * 7 + i / 5000;
    SHOW(write(p[1], b, sizeof b));
    SHOW(write(p[1], b, 100000));
    close(p[1]);
    SHOW(read(q[0], b, 10));
    wait(&status);

    struct sigaction sa = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &sa, NULL);
    pipe(p);
    ualarm(20000, 0);
    SHOW(read(p[0], b, 1));
    fcntl(p[1], F_SETFL, O_NONBLOCK);
    while (write(p[1], b, 4096) > 0)
        ;
    fcntl(p[1], F_SETFL, 0);
    ualarm(20000, 0);
    SHOW(write(p[1], b, 1));
    read(p[0], b, 4096);
    ualarm(20000, 0);
    SHOW(write(p[1], b, 10000)); /* one page goes, then the signal */
    sa.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &sa, NULL);
    pipe(p);
    if (!fork()) {
        nap_ms(60);
        write(p[1], "late", 4);
        _exit(0);
    }
    ualarm(20000, 0);
    SHOW(read(p[0], b, 10));
    wait(&status);
    /* The last writer's death ends a blocked read. */
    pipe(p);
    if (!fork()) {
        close(p[0]);
        nap_ms(20);
        _exit(0);
    }
    close(p[1]);
    SHOW(read(p[0], b, 10));
    wait(&status);
    /* The last reader's death ends a blocked write. */
    pipe(p);
    signal(SIGPIPE, SIG_IGN);
    if (!fork()) {
        close(p[1]);
        nap_ms(20);
        _exit(0);
    }
    close(p[0]);
    SHOW(write(p[1], b, 100000));
    SHOW(write(p[1], b, 1));
    wait(&status);
    return 0;
}
