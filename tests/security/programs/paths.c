/* Names and links that would take a careless path walk down: length, depth, loops, numbers. */
#include "hostile.h"
#include <dirent.h>
#include <sys/mount.h>
#include <sys/stat.h>

static int failures;

static void expect(const char *what, int result, int wanted)
{
    int got = result < 0 ? errno : 0;
    if (got != wanted) {
        printf("%s: %s instead of %s\n", what, strerrorname_np(got), strerrorname_np(wanted));
        failures++;
    }
}

int main(void)
{
    static char path[1 << 17], name[300];
    struct stat st;
    mkdir("/tmp/paths", 0777);
    chdir("/tmp/paths");
    mkdir("d", 0777);
    memset(name, 'n', sizeof name);
    name[256] = 0;
    expect("a name of 256", mkdir(name, 0777), ENAMETOOLONG);
    name[255] = 0;
    expect("a name of 255", mkdir(name, 0777), 0);
    for (int n = 0; n < 4095; n++)
        path[n] = n % 2 ? '/' : '.';
    path[4095] = 0;
    expect("a path of 4095", stat(path, &st), 0);
    strcpy(path + 4095, ".");
    expect("a path of 4096", stat(path, &st), ENAMETOOLONG);
    memset(path, '/', sizeof path - 1);
    expect("slashes without end", stat(path, &st), ENAMETOOLONG);
    path[0] = 0;
    for (int n = 0; n < 2000; n++)
        strcat(path, "..");
    for (int n = 0; n + 1 < 4000; n += 2)
        path[n] = n % 6 == 4 ? '/' : '.', path[n + 1] = n % 6 == 4 ? '/' : '.';
    stat(path, &st);
    /* Out of the top. */
    path[0] = 0;
    for (int n = 0; n < 1000; n++)
        strcat(path, "../");
    strcat(path, "tmp/paths/d");
    expect("up beyond the root", stat(path, &st), 0);
    /* Links. */
    symlink("loop", "loop");
    symlink("b", "a");
    symlink("a", "b");
    symlink("d/../self/x", "self");
    expect("a link to itself", open("loop", O_RDONLY), ELOOP);
    expect("two links", open("a/x", O_RDONLY), ELOOP);
    expect("a link through itself", open("self", O_RDONLY), ELOOP);
    expect("creation through a loop", open("loop", O_RDWR | O_CREAT, 0600), ELOOP);
    expect("exec of a loop", execl("loop", "loop", NULL), ELOOP);
    symlink("d", "l0");
    for (int i = 1; i <= 100; i++) {
        char to[16], from[16];
        sprintf(to, "l%d", i - 1);
        sprintf(from, "l%d", i);
        symlink(to, from);
    }
    expect("40 links", stat("l39", &st), 0);
    expect("41 links", stat("l40", &st), ELOOP);
    expect("101 links", stat("l100", &st), ELOOP);
    /* Two to the power of forty steps if each link were walked anew. */
    symlink(".", "e0");
    for (int i = 1; i <= 40; i++) {
        char to[32], from[16];
        sprintf(to, "e%d/e%d", i - 1, i - 1);
        sprintf(from, "e%d", i);
        symlink(to, from);
    }
    expect("exponential links", stat("e40", &st), ELOOP);
    for (int i = 0; i < 45; i++)
        strcat(strcpy(path + i * 3, "e0/"), "");
    expect("45 links in a row", stat(path, &st), ELOOP);
    memset(path, 'x', 4096);
    expect("a target of 4096", symlink(path, "long"), ENAMETOOLONG);
    path[4096] = path[4095] = 0;
    expect("a target of 4095", symlink(path, "long"), 0);
    expect("a target whose name is too long", stat("long", &st), ENAMETOOLONG);
    /* Depth: walk down, look back up, and take it away again. */
    int depth = 0;
    while (depth < 5000 && mkdir("deep", 0777) == 0 && chdir("deep") == 0)
        depth++;
    expect("getcwd beyond PATH_MAX", getcwd(path, 4096) ? 0 : -1, depth * 5 > 4090 ? ERANGE : 0);
    expect("a lookup down there", open("nothing", O_RDONLY), ENOENT);
    readlink("/proc/self/cwd", path, sizeof path);
    int top = open("/tmp/paths", O_RDONLY | O_DIRECTORY);
    expect("a directory into itself", rename("/tmp/paths/deep", "/tmp/paths/deep/deep/deep/x"), EINVAL);
    while (depth--) {
        chdir("..");
        rmdir("deep");
    }
    expect("taken away", stat("/tmp/paths/deep", &st), ENOENT);
    close(top);
    /* Mounts on mounts; refused without the capability, otherwise limited. */
    for (int i = 0; i < 200; i++)
        if (mount("tmpfs", "/tmp/paths/d", "tmpfs", 0, NULL))
            break;
    stat("/tmp/paths/d/../d", &st);
    for (int i = 0; i < 200; i++)
        if (umount("/tmp/paths/d"))
            break;
    /* Numbers. */
    mkdir("many", 0777);
    chdir("many");
    int made = 0;
    for (; made < 20000; made++) {
        sprintf(name, "%d", made);
        if (mknod(name, S_IFREG | 0600, 0))
            break;
    }
    DIR *dir = opendir(".");
    int seen = 0;
    for (struct dirent *e; (e = readdir(dir)); seen++)
        ;
    closedir(dir);
    if (seen != made + 2) {
        printf("%d of %d\n", seen, made);
        failures++;
    }
    /* Listing while it changes. */
    dir = opendir(".");
    for (int i = 0; i < made && readdir(dir); i++) {
        sprintf(name, "%d", i);
        unlink(name);
    }
    closedir(dir);
    printf("failures %d\n", failures);
    return failures != 0;
}
