/* Chains of symbolic links, dangling ones, trailing slashes, and open(2) of them. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define T(x) do { errno = 0; long r_ = (long)(x); printf("%s -> %s\n", #x, r_ < 0 ? strerror(errno) : "ok"); } while (0)

int main(void)
{
    struct stat st;
    char name[300], target[300], b[300];
    mkdir("dir", 0755);
    close(open("dir/file", O_CREAT | O_WRONLY, 0644));
    symlink("dir", "l0");
    for (int i = 1; i < 45; i++) {
        sprintf(name, "l%d", i);
        sprintf(target, "l%d", i - 1);
        symlink(target, name);
    }
    T(stat("l39/file", &st));
    T(stat("l39", &st));
    T(stat("l40", &st));
    T(lstat("l40", &st));
    T(lstat("l40/", &st));
    T(stat("l20/../l19/file", &st));
    T(stat("l19/../l19/../l1/file", &st));
    symlink("missing", "dangling");
    T(stat("dangling", &st));
    T(open("dangling", O_RDONLY));
    T(open("dangling", O_CREAT | O_EXCL | O_WRONLY, 0644));
    T(mkdir("dangling", 0755));
    T(mkdir("dangling/", 0755));
    T(open("dangling", O_CREAT | O_WRONLY, 0644));
    T(lstat("missing", &st));
    symlink("dir/", "slash");
    T(lstat("slash", &st));
    printf("%d\n", S_ISLNK(st.st_mode));
    T(lstat("slash/", &st));
    printf("%d\n", S_ISDIR(st.st_mode));
    T(unlink("slash/"));
    T(rmdir("slash/"));
    T(rmdir("slash"));
    T(rename("slash/", "x"));
    T(open("slash", O_NOFOLLOW | O_DIRECTORY));
    T(open("slash/", O_NOFOLLOW | O_DIRECTORY));
    T(symlink("a", "new/"));
    T(symlink("a", "dir"));
    T(symlink("", "empty"));
    symlink("self", "self");
    T(open("self", O_RDONLY));
    T(open("self", O_CREAT | O_WRONLY, 0644));
    T(open("self", O_PATH | O_NOFOLLOW));
    T(chmod("self", 0600));
    T(truncate("self", 0));
    T(chdir("self"));
    memset(target, 'a', 255);
    target[255] = 0;
    T(symlink(target, "longest"));
    printf("%zd\n", readlink("longest", b, sizeof b));
    printf("%zd\n", readlink("longest", b, 10));
    T(readlink("longest", b, 0));
    T(readlink("dir", b, 10));
    T(stat("longest", &st));
    target[255] = 'a';
    target[256] = 0;
    symlink(target, "toolong");
    T(stat("toolong", &st));
    T(linkat(AT_FDCWD, "l0", AT_FDCWD, "hard", 0));
    T(linkat(AT_FDCWD, "l0", AT_FDCWD, "harddir", AT_SYMLINK_FOLLOW));
    lstat("hard", &st);
    printf("%d %d\n", S_ISLNK(st.st_mode), (int)st.st_nlink);
    printf("%lld\n", (long long)st.st_size);
    return 0;
}
