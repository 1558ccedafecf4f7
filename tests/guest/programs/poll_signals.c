/* poll, ppoll, select, pselect and epoll_pwait under signals: restarts, masks, the remaining time. */
#include "event_show.h"
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>

static volatile int count;
static void on_signal(int s) { count++; }

static void later(int ms, int signo)
{
    if (!fork()) {
        nap_ms(ms);
        kill(getppid(), signo);
        _exit(0);
    }
}

static void handler(int flags)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = flags};
    sigaction(SIGUSR1, &sa, NULL);
}

int main(void)
{
    int p[2];
    sigset_t none, usr1, old;
    sigemptyset(&none);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pipe(p);
    struct pollfd f = {p[0], POLLIN};
    for (int flags = 0; flags < 2; flags++) {
        handler(flags ? SA_RESTART : 0);
        later(20, SIGUSR1);
        SHOW(poll(&f, 1, 2000)); /* never restarted after a handler */
        wait(NULL);
        struct timeval tv = {2, 0};
        fd_set s;
        FD_ZERO(&s);
        FD_SET(p[0], &s);
        later(20, SIGUSR1);
        SHOW(select(p[0] + 1, &s, NULL, NULL, &tv));
        printf("left %d\n", tv.tv_sec == 1 && tv.tv_usec > 500000);
        wait(NULL);
        int e = epoll_create1(0);
        struct epoll_event ev;
        later(20, SIGUSR1);
        SHOW(epoll_wait(e, &ev, 1, 2000));
        wait(NULL);
        close(e);
    }
    /* An ignored signal ends nothing. */
    signal(SIGUSR2, SIG_IGN);
    later(10, SIGUSR2);
    long long start = now_ms();
    SHOW(poll(&f, 1, 60));
    printf("full time %d\n", now_ms() - start >= 59);
    wait(NULL);
    /* A stop and continue is invisible: the wait goes on, until the same deadline. */
    if (!fork()) {
        nap_ms(10);
        kill(getppid(), SIGSTOP);
        nap_ms(20);
        kill(getppid(), SIGCONT);
        _exit(0);
    }
    start = now_ms();
    SHOW(poll(&f, 1, 80));
    printf("full time %d\n", now_ms() - start >= 79);
    while (wait(NULL) > 0)
        ;
    /* Masks: a blocked, pending signal interrupts only a call that unblocks it. */
    sigprocmask(SIG_BLOCK, &usr1, &old);
    handler(0);
    count = 0;
    raise(SIGUSR1);
    struct timespec soon = {0, 20000000}, never = {100, 0}, zero = {0, 0};
    SHOW(ppoll(&f, 1, &soon, NULL));
    SHOW(ppoll(&f, 1, &soon, &usr1));
    printf("count %d\n", count);
    SHOW(ppoll(&f, 1, &never, &none));
    printf("count %d\n", count);
    sigprocmask(SIG_BLOCK, NULL, &old);
    printf("still blocked %d\n", sigismember(&old, SIGUSR1));
    raise(SIGUSR1);
    SHOW(pselect(0, NULL, NULL, NULL, &never, &none));
    printf("count %d\n", count);
    raise(SIGUSR1);
    int e = epoll_create1(0);
    struct epoll_event ev = {EPOLLIN};
    SHOW(epoll_pwait(e, &ev, 1, 10000, &none));
    printf("count %d\n", count);
    /* Something is ready: the signal stays pending. */
    write(p[1], "x", 1);
    raise(SIGUSR1);
    SHOW(ppoll(&f, 1, NULL, &none));
    printf("count %d\n", count);
    epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev);
    SHOW(epoll_pwait(e, &ev, 1, -1, &none));
    printf("count %d\n", count);
    char b[10];
    read(p[0], b, 1);
    SHOW(ppoll(&f, 1, &zero, &none));
    printf("count %d\n", count);
    return 0;
}
