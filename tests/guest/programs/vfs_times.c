/* Which times an operation changes. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static struct stat old;

static long long ns(struct timespec t)
{
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void begin(const char *name)
{
    lstat(name, &old);
    usleep(12000); /* a tick of the coarse clock */
}

static void end(const char *what, const char *name)
{
    struct stat st;
    lstat(name, &st);
    printf("%-20s %s:%s%s%s\n", what, name, ns(st.st_atim) != ns(old.st_atim) ? " atime" : "",
           ns(st.st_mtim) != ns(old.st_mtim) ? " mtime" : "", ns(st.st_ctim) != ns(old.st_ctim) ? " ctime" : "");
}

#define DO(name, x) do { begin(name); x; end(#x, name); } while (0)

int main(void)
{
    char b[10];
    mkdir("d", 0755);
    int fd = open("d/f", O_CREAT | O_RDWR, 0644);
    DO("d", close(open("d/g", O_CREAT, 0644)));
    DO("d", unlink("d/g"));
    DO("d", mkdir("d/sub", 0755));
    DO("d", rmdir("d/sub"));
    DO("d/f", write(fd, "x", 1));
    DO("d/f", pread(fd, b, 1, 0));
    DO("d/f", pread(fd, b, 1, 0));
    DO("d/f", write(fd, "", 0));
    DO("d/f", ftruncate(fd, 1));
    DO("d/f", ftruncate(fd, 5));
    DO("d/f", chmod("d/f", 0600));
    DO("d/f", chown("d/f", -1, -1));
    DO("d/f", chown("d/f", 0, 0));
    DO("d/f", link("d/f", "d/h"));
    DO("d/f", unlink("d/h"));
    DO("d/f", rename("d/f", "d/f"));
    DO("d", rename("d/f", "d/e"));
    begin("d/e");
    rename("d/e", "d/f");
    end("rename", "d/f");
    DO("d", symlink("x", "d/l"));
    DO("d/f", close(open("d/f", O_RDONLY)));
    DO("d/f", close(open("d/f", O_WRONLY | O_TRUNC)));
    DO("d/f", close(open("d/f", O_WRONLY | O_TRUNC)));
    DO("d/f", close(open("d/f", O_WRONLY | O_CREAT, 0777)));
    DO("d/f", truncate("d/f", 0));
    struct timespec t[2] = { { 1, 5 }, { 0, UTIME_OMIT } };
    DO("d/f", utimensat(AT_FDCWD, "d/f", t, 0));
    t[0].tv_nsec = UTIME_OMIT;
    DO("d/f", utimensat(AT_FDCWD, "d/f", t, 0));
    DO("d/f", futimens(fd, 0));
    DO("d/l", utimensat(AT_FDCWD, "d/l", 0, AT_SYMLINK_NOFOLLOW));
    return 0;
}
