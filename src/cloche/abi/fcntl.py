"""Flags of open(2), openat2(2), fcntl(2), flock(2), rename(2) and the *at family (asm-generic/fcntl.h).

O_LARGEFILE is the kernel's value: the libc's is 0 on 64-bit.
"""

from typing import Final

# open(2)
O_ACCMODE: Final = 3
O_RDONLY: Final = 0
O_WRONLY: Final = 1
O_RDWR: Final = 2
O_CREAT: Final = 0o100
O_EXCL: Final = 0o200
O_NOCTTY: Final = 0o400
O_TRUNC: Final = 0o1000
O_APPEND: Final = 0o2000
O_NONBLOCK: Final = 0o4000
O_DSYNC: Final = 0o10000
FASYNC: Final = 0o20000
O_DIRECT: Final = 0o40000
O_LARGEFILE: Final = 0o100000
O_DIRECTORY: Final = 0o200000
O_NOFOLLOW: Final = 0o400000
O_NOATIME: Final = 0o1000000
O_CLOEXEC: Final = 0o2000000
O_SYNC: Final = 0x101000
O_PATH: Final = 0o10000000
O_TMPFILE: Final = 0x410000
O_NDELAY: Final = 0o4000

# fcntl(2)
F_DUPFD: Final = 0
F_GETFD: Final = 1
F_SETFD: Final = 2
F_GETFL: Final = 3
F_SETFL: Final = 4
F_GETLK: Final = 5
F_SETLK: Final = 6
F_SETLKW: Final = 7
F_SETOWN: Final = 8
F_GETOWN: Final = 9
F_SETSIG: Final = 10
F_GETSIG: Final = 11
F_SETOWN_EX: Final = 15
F_GETOWN_EX: Final = 16
F_GETOWNER_UIDS: Final = 17
F_OFD_GETLK: Final = 36
F_OFD_SETLK: Final = 37
F_OFD_SETLKW: Final = 38
F_OWNER_TID: Final = 0
F_OWNER_PID: Final = 1
F_OWNER_PGRP: Final = 2
FD_CLOEXEC: Final = 1
F_RDLCK: Final = 0
F_WRLCK: Final = 1
F_UNLCK: Final = 2
F_EXLCK: Final = 4
F_SHLCK: Final = 8
F_LINUX_SPECIFIC_BASE: Final = 1024
F_SETLEASE: Final = 1024
F_GETLEASE: Final = 1025
F_NOTIFY: Final = 1026
F_DUPFD_QUERY: Final = 1027
F_CREATED_QUERY: Final = 1028
F_CANCELLK: Final = 1029
F_DUPFD_CLOEXEC: Final = 1030
F_SETPIPE_SZ: Final = 1031
F_GETPIPE_SZ: Final = 1032
F_ADD_SEALS: Final = 1033
F_GET_SEALS: Final = 1034
F_SEAL_SEAL: Final = 0x1
F_SEAL_SHRINK: Final = 0x2
F_SEAL_GROW: Final = 0x4
F_SEAL_WRITE: Final = 0x8
F_SEAL_FUTURE_WRITE: Final = 0x10
F_SEAL_EXEC: Final = 0x20
F_GET_RW_HINT: Final = 1035
F_SET_RW_HINT: Final = 1036
F_GET_FILE_RW_HINT: Final = 1037
F_SET_FILE_RW_HINT: Final = 1038
DN_ACCESS: Final = 0x1
DN_MODIFY: Final = 0x2
DN_CREATE: Final = 0x4
DN_DELETE: Final = 0x8
DN_RENAME: Final = 0x10
DN_ATTRIB: Final = 0x20
DN_MULTISHOT: Final = 0x80000000

# flock(2)
LOCK_SH: Final = 1
LOCK_EX: Final = 2
LOCK_NB: Final = 4
LOCK_UN: Final = 8
LOCK_MAND: Final = 32
LOCK_READ: Final = 64
LOCK_WRITE: Final = 128
LOCK_RW: Final = 192

# *at calls; AT_FDCWD is the descriptor that stands for the working directory
AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_SYMLINK_FOLLOW: Final = 0x400
AT_NO_AUTOMOUNT: Final = 0x800
AT_EMPTY_PATH: Final = 0x1000
AT_STATX_SYNC_TYPE: Final = 0x6000
AT_STATX_SYNC_AS_STAT: Final = 0x0
AT_STATX_FORCE_SYNC: Final = 0x2000
AT_STATX_DONT_SYNC: Final = 0x4000
AT_RECURSIVE: Final = 0x8000
AT_RENAME_NOREPLACE: Final = 0x1
AT_RENAME_EXCHANGE: Final = 0x2
AT_RENAME_WHITEOUT: Final = 0x4
AT_EACCESS: Final = 0x200
AT_REMOVEDIR: Final = 0x200
AT_HANDLE_FID: Final = 0x200
AT_HANDLE_MNT_ID_UNIQUE: Final = 0x1

# renameat2(2)
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4

# openat2(2)
RESOLVE_NO_XDEV: Final = 0x1
RESOLVE_NO_MAGICLINKS: Final = 0x2
RESOLVE_NO_SYMLINKS: Final = 0x4
RESOLVE_BENEATH: Final = 0x8
RESOLVE_IN_ROOT: Final = 0x10
RESOLVE_CACHED: Final = 0x20

# posix_fadvise(2)
POSIX_FADV_NORMAL: Final = 0
POSIX_FADV_RANDOM: Final = 1
POSIX_FADV_SEQUENTIAL: Final = 2
POSIX_FADV_WILLNEED: Final = 3
POSIX_FADV_DONTNEED: Final = 4
POSIX_FADV_NOREUSE: Final = 5

# close_range(2)
CLOSE_RANGE_UNSHARE: Final = 2
CLOSE_RANGE_CLOEXEC: Final = 4

# posix access(2) modes (unistd.h)
F_OK: Final = 0
X_OK: Final = 1
W_OK: Final = 2
R_OK: Final = 4

OPEN_HOW_SIZE_VER0: Final = 24  # bytes of struct open_how (linux/fcntl.h, kernel side)
