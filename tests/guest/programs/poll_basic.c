/* poll: every kind of file, negative and bad descriptors, time limits, wake-ups, limits. */
#include "event_show.h"
#include <sys/resource.h>

int main(void)
{
    int p[2], q[2];
    char b[10];
    pipe(p);
    pipe(q);
    int null = open("/dev/null", O_RDWR), file = open("file", O_RDWR | O_CREAT, 0600), dir = open(".", O_RDONLY);
    int path = open(".", O_PATH);
    struct pollfd f[8] = {{p[0], POLLIN}, {p[1], POLLOUT}, {-1, POLLIN}, {99, POLLIN}, {null, POLLIN | POLLOUT},
                          {file, POLLIN | POLLOUT | POLLPRI}, {dir, POLLIN}, {path, POLLIN}};
    for (int i = 0; i < 8; i++)
        f[i].revents = 0x7fff;
    SHOW(poll(f, 8, -1));
    for (int i = 0; i < 8; i++)
        printf("%d: %s\n", i, bits(f[i].revents));
    f[0].revents = -1;
    SHOW(poll(f, 1, 0));
    printf("%d\n", f[0].revents);
    long long start = now_ms();
    SHOW(poll(f, 1, 50));
    printf("waited %d\n", now_ms() - start >= 49);
    start = now_ms();
    SHOW(poll(NULL, 0, 30));
    printf("waited %d\n", now_ms() - start >= 29);
    if (!fork()) {
        nap_ms(20);
        write(p[1], "x", 1);
        _exit(0);
    }
    SHOW(poll(f, 1, 5000));
    printf("%s\n", bits(f[0].revents));
    wait(NULL);
    f[0].events = POLLOUT;
    SHOW(poll(f, 1, 0));
    f[0].events = POLLIN | POLLRDNORM | POLLRDBAND;
    SHOW(poll(f, 1, 0));
    printf("%x\n", f[0].revents);
    f[0].events = 0;
    close(p[1]);
    SHOW(poll(f, 1, 0));
    printf("%s\n", bits(f[0].revents));
    read(p[0], b, 1);
    SHOW(poll(f, 1, -1));
    printf("%s\n", bits(f[0].revents));
    close(q[0]);
    struct pollfd g[2] = {{q[1], POLLOUT}, {q[1], 0}};
    SHOW(poll(g, 2, -1));
    printf("%s|", bits(g[0].revents));
    printf("%s\n", bits(g[1].revents));
    SHOW(poll((void *)8, 1, 0));
    struct rlimit l = {10, 10};
    setrlimit(RLIMIT_NOFILE, &l);
    static struct pollfd many[100];
    for (int i = 0; i < 100; i++)
        many[i].fd = -1;
    SHOW(poll(many, 10, 0));
    SHOW(poll(many, 11, 0));
    return 0;
}
