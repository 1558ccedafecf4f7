#include "file_common.h"

int main(void)
{
    struct statx x;
    put_file("f", "12345");
    symlink("f", "s");
    int fd = open("f", O_RDONLY);
    T(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &x));
    printf("%d %o %u %llu %d\n", (x.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS, x.stx_mode, x.stx_nlink,
           (unsigned long long)x.stx_size, x.stx_uid == geteuid());
    T(statx(AT_FDCWD, "s", AT_SYMLINK_NOFOLLOW, STATX_TYPE, &x));
    printf("%o\n", x.stx_mode & S_IFMT);
    T(statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &x));
    printf("%llu\n", (unsigned long long)x.stx_size);
    T(statx(fd, "", 0, STATX_SIZE, &x));
    T(statx(AT_FDCWD, "f", 0, 0x80000000u, &x));
    T(statx(AT_FDCWD, "f", AT_STATX_SYNC_TYPE, STATX_SIZE, &x));
    T(statx(AT_FDCWD, "f", AT_STATX_FORCE_SYNC, STATX_SIZE, &x));
    T(statx(AT_FDCWD, "f", AT_STATX_DONT_SYNC, STATX_SIZE, &x));
    T(statx(AT_FDCWD, "f", 0x40, STATX_SIZE, &x));
    T(statx(AT_FDCWD, "none", 0, STATX_SIZE, &x));
    T(statx(99, "f", 0, STATX_SIZE, &x));
    T(statx(AT_FDCWD, "f", 0, STATX_SIZE, (void *)8));
    T(statx(AT_FDCWD, "/", 0, STATX_MNT_ID, &x));
    printf("root %d id %d\n", (x.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0, (x.stx_mask & STATX_MNT_ID) != 0);
    T(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &x));
    printf("root %d known %d\n", (x.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0,
           (x.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0);
    struct stat st;
    stat("f", &st);
    printf("mtime %d dev %d\n", x.stx_mtime.tv_sec == st.st_mtim.tv_sec && x.stx_mtime.tv_nsec == st.st_mtim.tv_nsec,
           x.stx_dev_major == (st.st_dev >> 8 & 0xfff));
    return 0;
}
