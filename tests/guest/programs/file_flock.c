#include "file_common.h"

int main(void)
{
    put_file("f", "x");
    int a = open("f", O_RDONLY), b = open("f", O_WRONLY), c;
    char x;
    T(flock(a, LOCK_SH));
    T(flock(b, LOCK_SH | LOCK_NB));
    T(flock(a, LOCK_EX | LOCK_NB));
    T(flock(b, LOCK_EX | LOCK_NB));
    T(flock(a, LOCK_SH | LOCK_NB));
    T(flock(a, 0));
    T(flock(a, LOCK_SH | LOCK_EX));
    T(flock(-1, LOCK_SH));
    T(flock(b, LOCK_UN));
    T(flock(b, LOCK_UN));
    c = dup(a);
    T(flock(c, LOCK_EX));
    T(flock(b, LOCK_SH | LOCK_NB));
    close(a);
    T(flock(b, LOCK_SH | LOCK_NB));
    close(c);
    T(flock(b, LOCK_SH | LOCK_NB));
    int p[2];
    pipe(p);
    T(flock(p[0], LOCK_EX));
    fflush(stdout);
    if (fork() == 0) {
        int d = open("f", O_RDONLY);
        write(p[1], "x", 1);
        T(flock(d, LOCK_EX));
        exit(0);
    }
    read(p[0], &x, 1);
    struct timespec nap = {0, 50000000};
    nanosleep(&nap, 0);
    printf("unlock\n");
    fflush(stdout);
    flock(b, LOCK_UN);
    wait(0);
    T(flock(b, LOCK_EX | LOCK_NB));
    int d = open(".", O_RDONLY);
    T(flock(d, LOCK_EX));
    return 0;
}
