#include "file_common.h"

int main(void)
{
    put_file("f", "0123456789");
    int in = open("f", O_RDWR), out = open("g", O_RDWR | O_CREAT, 0600), ro = open("g", O_RDONLY);
    loff_t a = 2, b = 1;
    T(copy_file_range(in, &a, out, &b, 5, 0));
    printf("%ld %ld\n", (long)a, (long)b);
    T(lseek(out, 0, SEEK_CUR));
    T(copy_file_range(in, 0, out, 0, 100, 0));
    T(lseek(in, 0, SEEK_CUR));
    T(lseek(out, 0, SEEK_CUR));
    T(copy_file_range(in, 0, out, 0, 100, 0));
    T(copy_file_range(in, 0, out, 0, 10, 1));
    a = 0;
    T(copy_file_range(in, &a, ro, 0, 1, 0));
    a = 0;
    b = 3;
    T(copy_file_range(in, &a, in, &b, 5, 0));
    b = 5;
    T(copy_file_range(in, &a, in, &b, 5, 0));
    a = -1;
    T(copy_file_range(in, &a, out, 0, 5, 0));
    T(copy_file_range(-1, 0, out, 0, 5, 0));
    int d = open(".", O_RDONLY), p[2];
    pipe(p);
    T(copy_file_range(d, 0, out, 0, 5, 0));
    T(copy_file_range(p[0], 0, out, 0, 5, 0));
    int ap = open("h", O_WRONLY | O_CREAT | O_APPEND, 0600);
    a = 0;
    T(copy_file_range(in, &a, ap, 0, 5, 0));
    show_file("f");
    show_file("g");
    return 0;
}
