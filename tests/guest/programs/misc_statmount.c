/* statmount(2) and listmount(2) against mountinfo and statx. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct request { uint32_t size, spare; uint64_t mnt_id, param, ns; };
struct answer {
    uint32_t size, mnt_opts; uint64_t mask; uint32_t major, minor; uint64_t magic; uint32_t sb_flags, fs_type;
    uint64_t id, parent; uint32_t id_old, parent_old; uint64_t attr, propagation, peer, master, from;
    uint32_t root, point; uint64_t ns; uint64_t more[49]; char str[];
};

static union { struct answer a; char room[8192]; } out;

static const char *err(long r) { return r < 0 ? strerrorname_np(errno) : "ok"; }

static long stat_mount(struct request *q, size_t room, int flags) { return syscall(457, q, &out, room, flags); }
static long list(struct request *q, uint64_t *ids, size_t n, int flags) { return syscall(458, q, ids, n, flags); }

int main(void)
{
    struct statx x;
    statx(AT_FDCWD, "/proc", 0, 0x4000, &x);
    uint64_t proc = x.stx_mnt_id;
    printf("unique %d\n", proc > 1ULL << 31);
    statx(AT_FDCWD, "/proc", 0, STATX_MNT_ID, &x);
    struct request q = {24, 0, proc, 0x3b};
    printf("statmount %s\n", err(stat_mount(&q, sizeof out, 0)));
    printf("size %zu mask %#llx\n", sizeof(struct answer), (unsigned long long)out.a.mask);
    printf("type %s root %s point %s\n", out.a.str + out.a.fs_type, out.a.str + out.a.root, out.a.str + out.a.point);
    printf("magic %#llx id %d old %d\n", (unsigned long long)out.a.magic, out.a.id == proc, out.a.id_old == x.stx_mnt_id);
    printf("dev %d total %d\n", out.a.major == x.stx_dev_major && out.a.minor == x.stx_dev_minor,
           out.a.size > sizeof(struct answer));
    q.param = 3;
    printf("short %s", err(stat_mount(&q, 64, 0)));
    printf(" size %u\n", out.a.size);
    q.param = 0x10;
    printf("no room for strings %s\n", err(stat_mount(&q, sizeof(struct answer), 0)));
    printf("little room %s\n", err(stat_mount(&q, sizeof(struct answer) + 3, 0)));
    printf("enough room %s\n", err(stat_mount(&q, sizeof(struct answer) + 8, 0)));
    printf("flags %s\n", err(stat_mount(&q, sizeof out, 1)));
    q.size = 8;
    printf("small request %s\n", err(stat_mount(&q, sizeof out, 0)));
    q.size = 5000;
    printf("large request %s\n", err(stat_mount(&q, sizeof out, 0)));
    q.size = 24;
    q.spare = 77777;
    printf("spare %d\n", stat_mount(&q, sizeof out, 0) < 0);
    q.spare = 0;
    q.mnt_id = x.stx_mnt_id;
    printf("old id %s\n", err(stat_mount(&q, sizeof out, 0)));
    q.mnt_id = 1ULL << 50;
    printf("absent %s\n", err(stat_mount(&q, sizeof out, 0)));
    printf("bad address %s\n", err(syscall(457, 16, &out, sizeof out, 0)));

    static uint64_t ids[4096], back[4096];
    struct request l = {24, 0, -1ULL, 0};
    long n = list(&l, ids, 4096, 0);
    int sorted = 1, has_proc = 0, known = 0;
    for (long i = 0; i < n; i++) {
        sorted &= !i || ids[i] > ids[i - 1];
        has_proc |= ids[i] == proc;
        struct request m = {24, 0, ids[i], 2};
        known += stat_mount(&m, sizeof out, 0) == 0 && out.a.id == ids[i];
    }
    printf("list %d sorted %d proc %d known %d\n", n > 0, sorted, has_proc, known == n);
    long m = list(&l, back, 4096, 1);
    printf("reverse %d\n", m == n && back[0] == ids[n - 1] && back[n - 1] == ids[0]);
    l.param = ids[0];
    m = list(&l, back, 4096, 0);
    printf("after the first %d\n", m == n - 1 && back[0] == ids[1]);
    l.param = 0;
    printf("two %ld\n", list(&l, back, 2, 0));
    printf("none %ld\n", list(&l, back, 0, 0));
    printf("flags %s\n", err(list(&l, back, 2, 2)));
    printf("many %s\n", err(list(&l, back, 1000001, 0)));
    l.param = 5;
    printf("old param %s\n", err(list(&l, back, 2, 0)));
    l.param = 0;
    l.mnt_id = 1ULL << 50;
    printf("absent %s\n", err(list(&l, back, 2, 0)));
    return 0;
}
