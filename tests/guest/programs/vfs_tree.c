/* A tree of many directories and files: made, walked, moved, removed. */
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int dirs, files, links, depth;
static long long bytes;

static int each(const char *name, const struct stat *st, int type, struct FTW *f)
{
    if (type == FTW_D || type == FTW_DP)
        dirs++;
    else if (type == FTW_SL)
        links++;
    else {
        files++;
        bytes += st->st_size;
    }
    if (f->level > depth)
        depth = f->level;
    return 0;
}

static int removes(const char *name, const struct stat *st, int type, struct FTW *f)
{
    return remove(name);
}

int main(void)
{
    char name[200];
    struct stat st;
    mkdir("tree", 0755);
    for (int i = 0; i < 10; i++) {
        sprintf(name, "tree/%d", i);
        mkdir(name, 0755);
        for (int j = 0; j < 10; j++) {
            sprintf(name, "tree/%d/%d", i, j);
            mkdir(name, 0755);
            for (int k = 0; k < 5; k++) {
                sprintf(name, "tree/%d/%d/f%d", i, j, k);
                int fd = open(name, O_CREAT | O_WRONLY | O_EXCL, 0644);
                write(fd, name, strlen(name));
                close(fd);
            }
            sprintf(name, "tree/%d/%d/link", i, j);
            symlink("f0", name);
        }
    }
    stat("tree", &st);
    nftw("tree", each, 20, FTW_PHYS);
    printf("dirs %d files %d links %d bytes %lld depth %d\n", dirs, files, links, bytes, depth);
    rename("tree/3", "tree/4/3");
    rename("tree/5/5", "tree/6/moved");
    printf("onto itself %d\n", rename("tree/4", "tree/4/3/x"));
    printf("not empty %d\n", rename("tree/7", "tree/8"));
    printf("rmdir %d\n", rmdir("tree/9"));
    dirs = files = links = depth = bytes = 0;
    nftw("tree", each, 20, FTW_PHYS | FTW_DEPTH);
    printf("dirs %d files %d links %d bytes %lld depth %d\n", dirs, files, links, bytes, depth);
    printf("read %d %d\n", access("tree/4/3/0/link", R_OK), access("tree/6/moved/f4", R_OK));
    printf("removed %d\n", nftw("tree", removes, 20, FTW_PHYS | FTW_DEPTH));
    printf("gone %d\n", access("tree", F_OK));
    return 0;
}
