#include "file_common.h"

int main(void)
{
    put_file("f", "data");
    mkdir("d", 0755);
    symlink("f", "s");
    symlink("nowhere", "dangling");
    symlink("loop2", "loop1");
    symlink("loop1", "loop2");
    T(open("f", O_CREAT | O_EXCL | O_RDWR, 0600));
    T(open("s", O_CREAT | O_EXCL | O_RDWR, 0600));
    T(open("dangling", O_CREAT | O_EXCL | O_RDWR, 0600));
    T(open("f", O_RDONLY | O_DIRECTORY));
    T(open("d", O_WRONLY));
    T(open("d", O_RDWR | O_CREAT, 0600));
    T(open("d", O_RDONLY | O_CREAT, 0600));
    T(open("d", O_RDONLY | O_TRUNC));
    T(open("s", O_RDONLY | O_NOFOLLOW));
    T(open("loop1", O_RDONLY));
    T(open("dangling", O_RDONLY));
    T(open("", O_RDONLY));
    T(open("f/", O_RDONLY));
    T(open("f/x", O_RDONLY));
    T(open("new/", O_CREAT | O_RDWR, 0600));
    T(open("none/x", O_CREAT | O_RDWR, 0600));
    T(open("d/.", O_CREAT | O_RDWR, 0600));
    T(open((char *)8, O_RDONLY));
    char name[300];
    memset(name, 'n', sizeof name);
    name[256] = 0;
    T(open(name, O_CREAT | O_RDWR, 0600));
    name[255] = 0;
    T(open(name, O_CREAT | O_RDWR, 0600));
    static char path[5000];
    for (int i = 0; i < 2500; i++)
        memcpy(path + 2 * i, "./", 2);
    path[4998] = 'f';
    path[4999] = 0;
    T(open(path, O_RDONLY));
    T(open(path + 906, O_RDONLY));
    T(open("f", O_RDWR | O_TRUNC));
    struct stat st;
    stat("f", &st);
    printf("size %ld\n", (long)st.st_size);
    T(open("dangling", O_CREAT | O_RDWR, 0600));
    T(access("nowhere", F_OK));
    T(open("d", O_RDONLY | O_DIRECTORY | O_CREAT, 0600));
    T(open("none", O_RDONLY | O_DIRECTORY));
    T(openat(100, "f", O_RDONLY));
    T(openat(-5, "f", O_RDONLY));
    T(openat(3, "f", O_RDONLY));
    return 0;
}
