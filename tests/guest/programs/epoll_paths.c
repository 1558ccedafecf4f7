/* How deep epolls may nest, and how many paths may lead from one file to the outermost ones. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

static struct epoll_event wanted = {EPOLLIN};

static int add(int epoll, int fd)
{
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &wanted) ? errno : 0;
}

int main(void)
{
    int e[5][40], p[2], count, level, width = 40;
    pipe(p);
    int chain[8];
    for (count = 0; count < 8; count++) {
        chain[count] = epoll_create1(0);
        int error = add(chain[count], count ? chain[count - 1] : p[0]);
        if (error) {
            printf("chain of %d: %s\n", count, strerror(error));
            break;
        }
    }
    printf("loop: %s\n", strerror(add(chain[0], chain[2])));
    /* Widths that multiply: the pipe has 1, then `width` ways up, then the square of that. */
    for (level = 0; level < 5; level++)
        for (int i = 0; i < width; i++)
            e[level][i] = epoll_create1(0);
    for (int i = 0; i < width; i++)
        add(e[4][i], p[0]);
    for (level = 3; level >= 0; level--) {
        int done = 0, error = 0;
        for (int i = 0; i < width && !error; i++)
            for (int k = 0; k < width && !error; k++)
                if (!(error = add(e[level][i], e[level + 1][k])))
                    done++;
        printf("level %d: %d links, %s\n", level, done, strerror(error));
    }
    /* A file that comes last finds the ways already there. */
    int q[2], wide[30], mid = epoll_create1(0), low = epoll_create1(0), done = 0, error = 0;
    pipe(q);
    add(mid, low);
    for (int i = 0; i < 30 && !error; i++) {
        wide[i] = epoll_create1(0);
        error = add(wide[i], mid);
    }
    printf("no file yet: %s\n", strerror(error));
    for (int i = 0; i < 30; i++)
        epoll_ctl(wide[i], EPOLL_CTL_DEL, mid, NULL);
    for (int i = 0; i < 30; i++)
        add(wide[i], mid);
    printf("file: %s\n", strerror(add(low, q[0])));
    write(p[1], "x", 1);
    struct epoll_event got;
    printf("woken: %d %d\n", epoll_wait(e[4][0], &got, 1, 0), epoll_wait(chain[count ? count - 1 : 0], &got, 1, 0));
    return 0;
}
