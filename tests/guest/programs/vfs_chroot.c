/* chroot(2): names, `..`, descriptors that stay open. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define T(x) do { errno = 0; long r_ = (long)(x); printf("%s -> %s\n", #x, r_ < 0 ? strerror(errno) : "ok"); } while (0)

int main(void)
{
    char b[4096];
    struct stat st;
    mkdir("jail", 0755);
    mkdir("jail/sub", 0755);
    close(open("jail/inside", O_CREAT | O_WRONLY, 0644));
    close(open("outside", O_CREAT | O_WRONLY, 0644));
    symlink("/inside", "jail/abs");
    symlink("../../../inside", "jail/sub/up");
    int out = open(".", O_RDONLY);
    T(chroot("jail/inside"));
    T(chroot("missing"));
    T(chroot("jail"));
    T(stat("/inside", &st));
    T(stat("/abs", &st));
    T(stat("/sub/up", &st));
    T(stat("/../../inside", &st));
    T(stat("/outside", &st));
    T(stat("outside", &st)); /* the working directory is still outside */
    char *cwd = getcwd(b, sizeof b);
    printf("%.13s\n", cwd ? cwd : strerror(errno));
    T(chdir("/sub"));
    printf("%s\n", getcwd(b, sizeof b));
    T(stat("../../..", &st));
    T(chdir(".."));
    printf("%s\n", getcwd(b, sizeof b));
    T(fstatat(out, "outside", &st, 0));
    T(fchdir(out));
    T(stat("../", &st));
    T(chroot("."));
    T(chdir("/"));
    T(stat("/outside", &st));
    printf("%s\n", getcwd(b, sizeof b));
    return 0;
}
