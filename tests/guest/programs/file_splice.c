#include "file_common.h"

int main(void)
{
    char b[100];
    put_file("f", "0123456789");
    int in = open("f", O_RDONLY), out = open("g", O_RDWR | O_CREAT, 0600);
    int p[2], q[2];
    pipe(p);
    pipe(q);
    loff_t off = 3, to = 1;
    T(splice(in, &off, p[1], 0, 4, 0));
    printf("off %ld\n", (long)off);
    T(splice(in, 0, p[1], 0, 2, 0));
    T(tee(p[0], q[1], 100, 0));
    T(read(q[0], b, 100));
    printf("%.6s\n", b);
    T(splice(p[0], 0, out, &to, 3, 0));
    printf("to %ld\n", (long)to);
    T(splice(p[0], 0, q[1], 0, 100, 0));
    T(read(q[0], b, 100));
    T(splice(p[0], 0, out, 0, 10, SPLICE_F_NONBLOCK));
    T(splice(in, 0, out, 0, 10, 0));
    T(splice(p[0], &off, out, 0, 10, 0));
    T(splice(in, &off, p[1], &off, 10, 0));
    T(splice(p[0], 0, p[1], 0, 10, 0));
    T(splice(in, 0, p[1], 0, 10, 0x100));
    T(splice(in, 0, p[1], 0, 0, 0));
    T(splice(-1, 0, p[1], 0, 1, 0));
    T(splice(p[1], 0, out, 0, 1, 0));
    T(splice(in, 0, p[0], 0, 1, 0));
    T(tee(in, p[1], 1, 0));
    T(tee(p[0], q[1], 1, SPLICE_F_NONBLOCK));
    T(tee(p[0], p[1], 1, 0));
    T(tee(p[0], q[1], 0, 0));
    struct iovec v[2] = {{"ab", 2}, {"cd", 2}};
    T(vmsplice(p[1], v, 2, 0));
    T(read(p[0], b, 100));
    T(vmsplice(in, v, 2, 0));
    T(vmsplice(p[1], v, 2, 0x100));
    int s[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    write(s[0], "sock", 4);
    T(splice(s[1], 0, p[1], 0, 100, 0));
    T(splice(p[0], 0, s[1], 0, 100, 0));
    T(read(s[0], b, 100));
    close(p[1]);
    T(splice(p[0], 0, out, 0, 10, 0));
    T(tee(p[0], q[1], 10, 0));
    int ap = open("h", O_WRONLY | O_CREAT | O_APPEND, 0600);
    T(splice(q[0], 0, ap, 0, 10, SPLICE_F_NONBLOCK));
    struct stat st;
    stat("g", &st);
    printf("%ld\n", (long)st.st_size);
    return 0;
}
