"""Limits that programs know (linux/limits.h and the kernel's own)."""

from typing import Final

NR_OPEN: Final = 1024
NGROUPS_MAX: Final = 65536
ARG_MAX: Final = 131072
LINK_MAX: Final = 127
MAX_CANON: Final = 255
MAX_INPUT: Final = 255
NAME_MAX: Final = 255
PATH_MAX: Final = 4096
PIPE_BUF: Final = 4096
RTSIG_MAX: Final = 32

IOV_MAX: Final = 1024  # UIO_MAXIOV
UIO_FASTIOV: Final = 8
MAX_RW_COUNT: Final = 0x7FFFF000  # a read or write transfers at most this many bytes (read(2))
MAX_LFS_FILESIZE: Final = 0x7FFFFFFFFFFFFFFF
MAX_SYMLINKS: Final = 40  # followed in one path walk, else ELOOP
MAX_ARG_STRLEN: Final = 131072  # bytes of one argument of execve
MAX_ARG_STRINGS: Final = 0x7FFFFFFF
BINPRM_BUF_SIZE: Final = 256  # bytes of a script's first line that execve reads
TASK_COMM_LEN: Final = 16  # with the NUL
HOST_NAME_MAX: Final = 64
PIPE_DEF_BUFFERS: Final = 16  # pages of a new pipe
PIPE_MAX_SIZE: Final = 1048576  # /proc/sys/fs/pipe-max-size
PIPE_MIN_DEF_BUFFERS: Final = 2
PID_MAX_LIMIT: Final = 4194304
PID_MAX_DEFAULT: Final = 32768
SOMAXCONN: Final = 4096
UNIX_PATH_MAX: Final = 108
SCM_MAX_FD: Final = 253
TASK_SIZE_MAX: Final = 0x7FFFFFFFF000  # one past the highest address of a program (4-level page tables)
STACK_ALIGN: Final = 16
