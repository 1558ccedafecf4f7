/* cachestat(2): pages of files in memory, whole and in parts; descriptors that it refuses; the order of the checks. */
#include "file_common.h"
#include <grp.h>

struct range {
    uint64_t off, len;
};
struct stats {
    uint64_t cache, dirty, writeback, evicted, recently_evicted;
};

static long ask(int fd, struct range *range, struct stats *out, unsigned flags)
{
    return syscall(451, fd, range, out, flags);
}

static void show(const char *what, int fd, uint64_t off, uint64_t len)
{
    struct range range = {off, len};
    struct stats s;
    memset(&s, 0xEE, sizeof s);
    long r = ask(fd, &range, &s, 0);
    printf("%s [%llu, +%llu): %ld: %llu %llu %llu %llu %llu\n", what, (unsigned long long)off, (unsigned long long)len, r,
           (unsigned long long)s.cache, (unsigned long long)s.dirty, (unsigned long long)s.writeback,
           (unsigned long long)s.evicted, (unsigned long long)s.recently_evicted);
    fflush(stdout);
}

static void fill(int fd, int pages)
{
    char page[4096];
    memset(page, 'x', sizeof page);
    for (int i = 0; i < pages; i++)
        write(fd, page, sizeof page);
}

static void parts(const char *what, int fd)
{
    show(what, fd, 0, 0);
    fill(fd, 10);
    show(what, fd, 0, 0);
    show(what, fd, 0, 1);
    show(what, fd, 4095, 2);
    show(what, fd, 4096, 4096);
    show(what, fd, 8192, 0);
    show(what, fd, 36000, 100000);
    show(what, fd, 40960, 0);
    show(what, fd, 1ULL << 40, 0);
    show(what, fd, 1ULL << 63, 0);
    show(what, fd, ~0ULL, ~0ULL); /* wraps */
    show(what, fd, 4096, ~0ULL);  /* wraps to before it */
    show(what, fd, 0, ~0ULL);
    write(fd, "y", 1);
    show(what, fd, 0, 0);

    ftruncate(fd, 100 << 20);
    show(what, fd, 0, 0);
    pwrite(fd, "z", 1, 50 << 20);
    pwrite(fd, "z", 1, (50 << 20) + 8192);
    show(what, fd, 0, 0);
    show(what, fd, 12 << 12, 0);
    show(what, fd, 50 << 20, 8192);
    show(what, fd, 50 << 20, 8193);
    char b;
    pread(fd, &b, 1, 60 << 20); /* a hole stays one when it is read */
    show(what, fd, 60 << 20, 4096);
    char *p = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 70 << 20);
    p[4096] = 1;
    show(what, fd, 70 << 20, 3 * 4096);
    munmap(p, 3 * 4096);
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192);
    show(what, fd, 0, 0);
    show(what, fd, 4096, 12288);
    ftruncate(fd, 4097);
    show(what, fd, 0, 0);
    ftruncate(fd, 0);
    show(what, fd, 0, 0);
}

static void many(int fd)
{
    for (int i = 0; i < 3000; i++)
        pwrite(fd, "m", 1, (off_t)i * 3 * 4096);
    show("many", fd, 0, 0);
    show("many", fd, 4096, 0);
    show("many", fd, 3 * 4096, 1000 * 3 * 4096);
}

int main(void)
{
    char name[64];
    int fd = memfd_create("m", 0);
    parts("memfd", fd);
    many(fd);
    snprintf(name, sizeof name, "/dev/shm/cachestat.%d", (int)getpid());
    int shm = open(name, O_RDWR | O_CREAT | O_EXCL, 0644);
    parts("tmpfs", shm);

    int ends[2];
    if (pipe(ends))
        return 1;
    show("pipe", ends[0], 0, 0);
    int dir = open("/dev/shm", O_RDONLY | O_DIRECTORY);
    show("directory", dir, 0, 0);
    show("null", open("/dev/null", O_RDWR), 0, 0);
    show("proc", open("/proc/self/maps", O_RDONLY), 0, 0);

    int f = open("f", O_RDWR | O_CREAT, 0644); /* Linux promises nothing about the cached pages of a file on a disk */
    fill(f, 3);
    fsync(f);
    struct range whole = {0, 0};
    struct stats s;
    printf("disk %ld %d\n", ask(f, &whole, &s, 0), s.cache + s.evicted <= 3 && s.dirty <= s.cache);

    struct range *nowhere = (struct range *)8;
    T(ask(-1, &whole, &s, 0));
    T(ask(999, nowhere, &s, 1));
    T(ask(open("f", O_PATH), &whole, &s, 0));
    T(ask(fd, nowhere, &s, 1));
    T(ask(fd, &whole, &s, 1));
    T(ask(fd, &whole, (struct stats *)8, 1u << 31));
    T(ask(fd, &whole, (struct stats *)8, 0));
    T(ask(fd, NULL, &s, 0));
    T(ask(fd, &whole, NULL, 0));
    int huge = memfd_create("h", MFD_HUGETLB); /* not everywhere */
    printf("huge %d\n", huge < 0 || (ask(huge, &whole, &s, 1) == -1 && errno == EOPNOTSUPP));

    int reader = open(name, O_RDONLY);
    T(ask(reader, &whole, &s, 0));
    fflush(stdout);
    if (fork() == 0) {
        if (geteuid() == 0 && (setgroups(0, NULL) || setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534)))
            return 1;
        int foreign = open("/etc/passwd", O_RDONLY);
        T(ask(foreign, &whole, &s, 0));
        T(ask(foreign, &whole, &s, 1));
        T(ask(foreign, nowhere, &s, 1));
        return 0;
    }
    wait(NULL);
    unlink(name);
    return 0;
}
