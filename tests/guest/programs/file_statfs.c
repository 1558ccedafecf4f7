#include "file_common.h"

int main(void)
{
    struct statfs s, t;
    put_file("f", "x");
    int fd = open("f", O_RDONLY), p[2];
    pipe(p);
    T(statfs(".", &s));
    printf("%ld %d %d\n", (long)s.f_namelen, s.f_bsize > 0, s.f_blocks >= s.f_bfree);
    T(fstatfs(fd, &t));
    printf("same %d\n", s.f_type == t.f_type && s.f_bsize == t.f_bsize);
    T(statfs("/proc", &s));
    printf("%lx\n", (long)s.f_type);
    T(fstatfs(p[0], &s));
    printf("%lx\n", (long)s.f_type);
    T(statfs("none", &s));
    T(statfs("f/x", &s));
    T(statfs("", &s));
    T(statfs("f", (void *)8));
    T(fstatfs(-1, &s));
    T(fstatfs(open("f", O_PATH), &s));
    return 0;
}
