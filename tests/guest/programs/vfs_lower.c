/* A read-only walk of a tree of the host: names, types, sizes, numbers, contents. */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static long entries, dirs, links, odd_types, odd_numbers, unreadable;
static long long bytes;
static uint64_t names, contents;

static uint64_t hash(uint64_t h, const void *data, size_t n)
{
    const unsigned char *p = data;
    while (n--)
        h = (h ^ *p++) * 1099511628211u;
    return h;
}

static void walk(int at, const char *name, int level)
{
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    DIR *d = fd < 0 ? 0 : fdopendir(fd);
    struct dirent *e;
    if (!d) {
        unreadable++;
        return;
    }
    while ((e = readdir(d))) {
        struct stat st;
        if (e->d_name[0] == '.')
            continue;
        entries++;
        names += hash(1469598103934665603u, e->d_name, strlen(e->d_name)); /* in any order */
        if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW)) {
            unreadable++;
            continue;
        }
        odd_types += e->d_type != (st.st_mode >> 12 & 15);
        odd_numbers += e->d_ino != st.st_ino;
        if (S_ISDIR(st.st_mode)) {
            dirs++;
            if (level < 12)
                walk(fd, e->d_name, level + 1);
        } else if (S_ISLNK(st.st_mode)) {
            char b[4096];
            links++;
            ssize_t n = readlinkat(fd, e->d_name, b, sizeof b);
            names += hash(7, b, n > 0 ? n : 0) + (n == st.st_size);
        } else if (S_ISREG(st.st_mode)) {
            bytes += st.st_size;
            char b[4096];
            int f = openat(fd, e->d_name, O_RDONLY);
            ssize_t n = read(f, b, sizeof b);
            contents += hash(hash(11, e->d_name, strlen(e->d_name)), b, n > 0 ? n : 0);
            close(f);
        }
    }
    closedir(d);
}

int main(void)
{
    walk(AT_FDCWD, "/usr/include", 0);
    printf("%ld entries, %ld directories, %ld links, %lld bytes\n", entries, dirs, links, bytes);
    printf("odd types %ld, odd numbers %ld, unreadable %ld\n", odd_types, odd_numbers, unreadable);
    printf("names %llx contents %llx\n", (unsigned long long)names, (unsigned long long)contents);
    return 0;
}
