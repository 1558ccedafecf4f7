"""File types, mode bits and statx(2) masks (linux/stat.h), with the S_IS* tests."""

from typing import Final

# File types and mode bits
S_IFMT: Final = 0o170000
S_IFSOCK: Final = 0o140000
S_IFLNK: Final = 0o120000
S_IFREG: Final = 0o100000
S_IFBLK: Final = 0o60000
S_IFDIR: Final = 0o40000
S_IFCHR: Final = 0o20000
S_IFIFO: Final = 0o10000
S_ISUID: Final = 0o4000
S_ISGID: Final = 0o2000
S_ISVTX: Final = 0o1000
S_IRWXU: Final = 0o700
S_IRUSR: Final = 0o400
S_IWUSR: Final = 0o200
S_IXUSR: Final = 0o100
S_IRWXG: Final = 0o70
S_IRGRP: Final = 0o40
S_IWGRP: Final = 0o20
S_IXGRP: Final = 0o10
S_IRWXO: Final = 7
S_IROTH: Final = 4
S_IWOTH: Final = 2
S_IXOTH: Final = 1

# statx(2) masks and attributes
STATX_TYPE: Final = 0x1
STATX_MODE: Final = 0x2
STATX_NLINK: Final = 0x4
STATX_UID: Final = 0x8
STATX_GID: Final = 0x10
STATX_ATIME: Final = 0x20
STATX_MTIME: Final = 0x40
STATX_CTIME: Final = 0x80
STATX_INO: Final = 0x100
STATX_SIZE: Final = 0x200
STATX_BLOCKS: Final = 0x400
STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800
STATX_MNT_ID: Final = 0x1000
STATX_DIOALIGN: Final = 0x2000
STATX_MNT_ID_UNIQUE: Final = 0x4000
STATX_SUBVOL: Final = 0x8000
STATX_WRITE_ATOMIC: Final = 0x10000
STATX__RESERVED: Final = 0x80000000
STATX_ALL: Final = 0xFFF
STATX_ATTR_COMPRESSED: Final = 0x4
STATX_ATTR_IMMUTABLE: Final = 0x10
STATX_ATTR_APPEND: Final = 0x20
STATX_ATTR_NODUMP: Final = 0x40
STATX_ATTR_ENCRYPTED: Final = 0x800
STATX_ATTR_AUTOMOUNT: Final = 0x1000
STATX_ATTR_MOUNT_ROOT: Final = 0x2000
STATX_ATTR_VERITY: Final = 0x100000
STATX_ATTR_DAX: Final = 0x200000
STATX_ATTR_WRITE_ATOMIC: Final = 0x400000

# d_type of a directory entry (dirent.h)
DT_UNKNOWN: Final = 0
DT_FIFO: Final = 1
DT_CHR: Final = 2
DT_DIR: Final = 4
DT_BLK: Final = 6
DT_REG: Final = 8
DT_LNK: Final = 10
DT_SOCK: Final = 12
DT_WHT: Final = 14


def S_ISREG(mode: int) -> bool:
    """Whether `mode` is a regular file's."""
    return mode & S_IFMT == S_IFREG


def S_ISDIR(mode: int) -> bool:
    """Whether `mode` is a directory's."""
    return mode & S_IFMT == S_IFDIR


def S_ISLNK(mode: int) -> bool:
    """Whether `mode` is a symbolic link's."""
    return mode & S_IFMT == S_IFLNK


def S_ISCHR(mode: int) -> bool:
    """Whether `mode` is a character device's."""
    return mode & S_IFMT == S_IFCHR


def S_ISBLK(mode: int) -> bool:
    """Whether `mode` is a block device's."""
    return mode & S_IFMT == S_IFBLK


def S_ISFIFO(mode: int) -> bool:
    """Whether `mode` is a FIFO's or pipe's."""
    return mode & S_IFMT == S_IFIFO


def S_ISSOCK(mode: int) -> bool:
    """Whether `mode` is a socket's."""
    return mode & S_IFMT == S_IFSOCK


def dtype(mode: int) -> int:
    """The DT_* of a directory entry for a file with `mode`."""
    return (mode & S_IFMT) >> 12


def makedev(major: int, minor: int) -> int:
    """A device number as user space sees it in 64 bits (makedev(3))."""
    return (minor & 0xFF) | ((major & 0xFFF) << 8) | ((minor & ~0xFF) << 12) | ((major & ~0xFFF) << 32)


def major(dev: int) -> int:
    """The major half of a 64-bit device number."""
    return ((dev >> 8) & 0xFFF) | ((dev >> 32) & 0xFFFFF000)


def minor(dev: int) -> int:
    """The minor half of a 64-bit device number."""
    return (dev & 0xFF) | ((dev >> 12) & 0xFFFFFF00)
