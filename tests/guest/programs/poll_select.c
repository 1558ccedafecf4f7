/* select and pselect: sets, counts, errors, time limits. */
#include "event_show.h"
#include <sys/select.h>
#include <sys/syscall.h>

static void show(const char *what, fd_set *s)
{
    printf("%s:", what);
    for (int i = 0; i < 64; i++)
        if (FD_ISSET(i, s))
            printf(" %d", i);
    printf("\n");
}

int main(void)
{
    int p[2];
    fd_set r, w, x;
    pipe(p);
    dup2(p[0], 20);
    dup2(p[1], 21);
    struct timeval zero = {0, 0}, some = {0, 30000}, bad = {-1, 0}, odd = {0, 2500000};
#define RESET                                                                                                     \
    do {                                                                                                          \
        FD_ZERO(&r);                                                                                              \
        FD_ZERO(&w);                                                                                              \
        FD_ZERO(&x);                                                                                              \
        FD_SET(20, &r);                                                                                           \
        FD_SET(21, &w);                                                                                           \
        FD_SET(20, &x);                                                                                           \
    } while (0)
    RESET;
    SHOW(select(22, &r, &w, &x, NULL));
    show("r", &r), show("w", &w), show("x", &x);
    RESET;
    write(21, "x", 1);
    FD_SET(20, &w);
    FD_SET(21, &r);
    SHOW(select(22, &r, &w, &x, NULL));
    show("r", &r), show("w", &w), show("x", &x);
    RESET;
    SHOW(select(21, &r, &w, &x, &zero));
    show("r", &r), show("w", &w);
    RESET;
    SHOW(select(20, &r, &w, &x, &zero));
    show("r", &r);
    char b[10];
    read(20, b, 1);
    FD_ZERO(&r);
    FD_SET(20, &r);
    long long start = now_ms();
    SHOW(select(21, &r, NULL, NULL, &some));
    printf("waited %d, left %ld %ld\n", now_ms() - start >= 29, some.tv_sec, some.tv_usec);
    show("r", &r);
    RESET;
    SHOW(select(-1, &r, NULL, NULL, &zero));
    SHOW(select(22, &r, NULL, NULL, &bad));
    FD_SET(50, &r);
    SHOW(select(51, &r, NULL, NULL, &zero));
    show("unchanged", &r);
    SHOW(select(0, NULL, NULL, NULL, &zero));
    SHOW(select(5, (void *)8, NULL, NULL, &zero));
    RESET;
    write(21, "y", 1);
    SHOW(syscall(SYS_select, 22, &r, NULL, NULL, &odd));
    printf("%d\n", (int)odd.tv_sec);
    if (!fork()) {
        nap_ms(20);
        close(20), close(21), close(p[0]), close(p[1]);
        _exit(0);
    }
    read(20, b, 1);
    close(21), close(p[1]);
    RESET;
    FD_ZERO(&w);
    SHOW(select(22, &r, NULL, &x, NULL)); /* the end of file makes it readable */
    show("r", &r), show("x", &x);
    wait(NULL);
    struct timespec ts = {0, 20000000}, bad_ns = {0, 1000000000};
    FD_ZERO(&r);
    SHOW(pselect(0, NULL, NULL, NULL, &ts, NULL));
    printf("glibc keeps %ld\n", ts.tv_nsec);
    SHOW(pselect(0, NULL, NULL, NULL, &bad_ns, NULL));
    struct timespec raw = {5, 0};
    FD_SET(20, &r);
    SHOW(syscall(SYS_pselect6, 21, &r, NULL, NULL, &raw, NULL));
    printf("left %d\n", raw.tv_sec == 4 && raw.tv_nsec > 0);
    return 0;
}
