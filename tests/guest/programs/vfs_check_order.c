// In which order a name that is too long, one that leads nowhere and a directory that is gone are refused; what O_TMPFILE
// wants and shows; whose file a whiteout is; O_CREAT on somebody else's socket in a sticky directory.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef RENAME_WHITEOUT
#define RENAME_WHITEOUT 4
#endif

static char too_long[300];

static void say(const char *what, long result) { printf("%s: %s\n", what, result < 0 ? strerrorname_np(errno) : "ok"); }

static void renames(void) {
    say("long name to ..", rename(too_long, ".."));
    say(".. to long name", rename("..", too_long));
    say(". to long name", rename(".", too_long));
    say("nothing to long name", rename("nothing", too_long));
    say("long name to nothing", rename(too_long, "nothing"));
    say("long name to file/x", rename(too_long, "file/x"));
    say("file to long name", rename("file", too_long));
    say("long name, twice", rename(too_long, too_long));
}

static void in_a_directory_that_is_gone(void) {
    mkdir("gone", 0700);
    int fd = open("gone", O_RDONLY | O_DIRECTORY);
    rmdir("gone");
    struct stat st;
    say("open", openat(fd, too_long, O_RDONLY));
    say("create", openat(fd, too_long, O_RDWR | O_CREAT, 0600));
    say("below", openat(fd, strcat(too_long, "/x"), O_RDONLY));
    too_long[strlen(too_long) - 2] = 0;
    say("stat", fstatat(fd, too_long, &st, 0));
    say("mkdir", mkdirat(fd, too_long, 0700));
    say("unlink", unlinkat(fd, too_long, 0));
    say("rename from", renameat(fd, too_long, AT_FDCWD, "x"));
    say("rename to", renameat(AT_FDCWD, "file", fd, too_long));
    close(fd);
}

static void tmpfiles(void) {
    say("O_TMPFILE, read only", open(".", O_TMPFILE | O_RDONLY, 0600));
    say("O_TMPFILE | O_TRUNC, read only", open(".", O_TMPFILE | O_RDONLY | O_TRUNC, 0600));
    say("O_TMPFILE | O_TRUNC, of a file", open("file", O_TMPFILE | O_RDONLY | O_TRUNC, 0600));
    say("O_TMPFILE of a file", open("file", O_TMPFILE | O_RDWR, 0600));
    int fd = open(".", O_TMPFILE | O_RDWR | O_APPEND, 0600);
    printf("flags %x\n", fcntl(fd, F_GETFL));
    close(fd);
}

static void positions_and_descriptors(void) {
    int fd = open("file", O_RDWR | O_APPEND);
    say("write", write(fd, "abc", 3));
    lseek(fd, 1, SEEK_SET);
    say("write of nothing", write(fd, "", 0));
    printf("position %ld\n", (long)lseek(fd, 0, SEEK_CUR));
    say("write from nowhere", write(fd, (char *)8, 1));
    printf("position %ld\n", (long)lseek(fd, 0, SEEK_CUR));
    say("renameat of no name, bad descriptors", renameat(99, "", 98, "x"));
    say("renameat from a bad descriptor to no name", renameat(99, "x", 98, ""));
    say("renameat below a file, to a bad descriptor", renameat(fd, "x", 98, "x"));
    say("renameat of nothing to a bad descriptor", renameat(AT_FDCWD, "nothing", 98, "x"));
    char value[8];
    say("getxattr of a kind", getxattr("file", "user.", value, sizeof value));
    say("removexattr of a kind", removexattr("file", "user."));
    say("setxattr of a kind", setxattr("file", "user.", value, 1, 0));
    close(fd);
}

static void others(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    mkdir("sticky", 0777);
    chmod("sticky", 01777);
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "sticky/socket"};
    say("bind", bind(fd, (struct sockaddr *)&address, sizeof address));
    say("my socket", open("sticky/socket", O_RDONLY | O_CREAT, 0600));
    if (geteuid() == 0 && chown("sticky/socket", 5, 5) == 0) {
        say("a socket", open("sticky/socket", O_RDONLY | O_CREAT, 0600));
        say("a socket, without O_CREAT", open("sticky/socket", O_RDONLY));
        chmod("sticky", 01775);
        say("a socket, others may not write", open("sticky/socket", O_RDONLY | O_CREAT, 0600));
        mkdir("group", 0700);
        if (chown("group", 0, 7) == 0 && chmod("group", 02755) == 0) {
            close(open("group/file", O_CREAT | O_WRONLY, 0600));
            say("whiteout", syscall(SYS_renameat2, AT_FDCWD, "group/file", AT_FDCWD, "group/moved", RENAME_WHITEOUT));
            struct stat st = {0};
            say("stat", stat("group/file", &st));
            printf("whiteout: mode %o group %d\n", st.st_mode, st.st_gid);
        }
    }
    close(fd);
}

int main(void) {
    memset(too_long, 'x', 256);
    close(open("file", O_CREAT | O_WRONLY, 0600));
    renames();
    in_a_directory_that_is_gone();
    tmpfiles();
    positions_and_descriptors();
    others();
    return 0;
}
