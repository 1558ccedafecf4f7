/* Sticky and set-group-id directories, with several users. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define T(x) do { errno = 0; long r_ = (long)(x); printf("%s -> %s\n", #x, r_ < 0 ? strerror(errno) : "ok"); } while (0)

static void as(int uid, int gid, void (*f)(void))
{
    fflush(stdout);
    if (fork() == 0) {
        setgroups(0, 0);
        setgid(gid);
        setuid(uid);
        f();
        fflush(stdout);
        _exit(0);
    }
    wait(0);
}

static void alice(void)
{
    struct stat st;
    umask(022);
    T(open("t/alice", O_CREAT | O_WRONLY, 0666));
    T(mkdir("t/adir", 0777));
    T(open("s/f", O_CREAT | O_WRONLY, 02775));
    stat("s/f", &st);
    printf("%d %o\n", st.st_gid, st.st_mode);
    T(mkdir("s/d", 0755));
    stat("s/d", &st);
    printf("%d %o\n", st.st_gid, st.st_mode);
    T(mkdir("s/d/e", 0700));
    stat("s/d/e", &st);
    printf("%d %o\n", st.st_gid, st.st_mode);
    T(symlink("x", "s/l"));
    lstat("s/l", &st);
    printf("%d\n", st.st_gid);
    T(chmod("s/f", 02775));
    stat("s/f", &st);
    printf("%o\n", st.st_mode);
    T(chown("s/f", -1, 2001));
    stat("s/f", &st);
    printf("%d %o\n", st.st_gid, st.st_mode);
}

static void bob(void)
{
    T(unlink("t/alice"));
    T(rename("t/alice", "t/mine"));
    T(rmdir("t/adir"));
    T(open("t/bob", O_CREAT | O_WRONLY, 0666));
    T(rename("t/bob", "t/alice"));
    T(link("t/alice", "t/hard") == 0 || errno == EPERM ? 0 : -1); /* protected_hardlinks or not */
    T(unlink("t/hard") == 0 || 1 ? 0 : -1);
    T(unlink("t/bob"));
    T(open("t/alice", O_RDONLY));
    T(open("t/alice", O_WRONLY));
    T(open("p/secret", O_RDONLY));
    T(access("p/secret", F_OK));
    T(chdir("p"));
    T(open("x/known", O_RDONLY));
    T(open("x", O_RDONLY));
    T(open("w/new", O_CREAT | O_WRONLY, 0644));
    T(rmdir("x/none"));
    T(mkdir("x/none", 0755));
    T(utimensat(AT_FDCWD, "t/alice", 0, 0));
    T(chmod("t/alice", 0777));
    T(chown("t/alice", -1, 2002));
    T(truncate("t/alice", 0));
}

int main(void)
{
    umask(0);
    chmod(".", 0755);
    mkdir("t", 01777);
    mkdir("s", 02777);
    chown("s", 0, 500);
    chmod("s", 02777);
    mkdir("p", 0700);
    close(open("p/secret", O_CREAT | O_WRONLY, 0666));
    mkdir("x", 0711);
    close(open("x/known", O_CREAT | O_WRONLY, 0644));
    mkdir("w", 0333);
    as(2001, 2001, alice);
    as(2002, 2002, bob);
    return 0;
}
