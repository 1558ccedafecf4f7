"""What the platform copies out of guest memory together with a system call (Platform.set_prefetch), as data.

Owns one table; `install` gives it to the platform at boot.  A row saves a call's handler a read of guest memory
(1.5 us each).  Only arguments that are pointers in *every* use of the call belong here: a copy that faults costs
the guest a signal.  Words that other threads may change (futexes) are read fresh and do not belong here either.
"""

from typing import Final

from cloche.platform.interface import PF_ARG, PF_CSTRING, PF_FIXED, Platform

Row = tuple[int, int, int, int, int]


def _path(arg: int) -> Row:
    return (PF_CSTRING, arg, 0, 1024, 0)


def _bytes(arg: int, count: int) -> Row:
    return (PF_FIXED, arg, 0, count, 0)


def _array(arg: int, count_arg: int, each: int, cap: int) -> Row:
    return (PF_ARG, arg, count_arg, each, cap)


PREFETCH: Final[dict[int, list[Row]]] = {
    1: [_array(1, 2, 1, 8192)],  # write
    2: [_path(0)],  # open
    4: [_path(0)],  # stat
    6: [_path(0)],  # lstat
    7: [_array(0, 1, 8, 1024)],  # poll
    13: [_bytes(1, 32)],  # rt_sigaction
    14: [_bytes(1, 8)],  # rt_sigprocmask
    18: [_array(1, 2, 1, 8192)],  # pwrite64
    19: [_array(1, 2, 16, 1024)],  # readv
    20: [_array(1, 2, 16, 1024)],  # writev
    21: [_path(0)],  # access
    35: [_bytes(0, 16)],  # nanosleep
    38: [_bytes(1, 32)],  # setitimer
    42: [_array(1, 2, 1, 128)],  # connect
    43: [_bytes(2, 4)],  # accept
    44: [_array(1, 2, 1, 8192), _array(4, 5, 1, 128)],  # sendto
    46: [_bytes(1, 56)],  # sendmsg
    47: [_bytes(1, 56)],  # recvmsg
    49: [_array(1, 2, 1, 128)],  # bind
    51: [_bytes(2, 4)],  # getsockname
    52: [_bytes(2, 4)],  # getpeername
    54: [_array(3, 4, 1, 128)],  # setsockopt
    55: [_bytes(4, 4)],  # getsockopt
    59: [_path(0)],  # execve
    76: [_path(0)],  # truncate
    80: [_path(0)],  # chdir
    82: [_path(0), _path(1)],  # rename
    83: [_path(0)],  # mkdir
    84: [_path(0)],  # rmdir
    85: [_path(0)],  # creat
    86: [_path(0), _path(1)],  # link
    87: [_path(0)],  # unlink
    88: [_path(0), _path(1)],  # symlink
    89: [_path(0)],  # readlink
    90: [_path(0)],  # chmod
    92: [_path(0)],  # chown
    94: [_path(0)],  # lchown
    128: [_bytes(0, 8), _bytes(2, 16)],  # rt_sigtimedwait
    130: [_bytes(0, 8)],  # rt_sigsuspend
    131: [_bytes(0, 24)],  # sigaltstack
    137: [_path(0)],  # statfs
    223: [_bytes(2, 32)],  # timer_settime
    230: [_bytes(2, 16)],  # clock_nanosleep
    233: [_bytes(3, 12)],  # epoll_ctl
    254: [_path(1)],  # inotify_add_watch
    257: [_path(1)],  # openat
    258: [_path(1)],  # mkdirat
    259: [_path(1)],  # mknodat
    260: [_path(1)],  # fchownat
    262: [_path(1)],  # newfstatat
    263: [_path(1)],  # unlinkat
    264: [_path(1), _path(3)],  # renameat
    265: [_path(1), _path(3)],  # linkat
    266: [_path(0), _path(2)],  # symlinkat
    267: [_path(1)],  # readlinkat
    268: [_path(1)],  # fchmodat
    269: [_path(1)],  # faccessat
    271: [_array(0, 1, 8, 1024), _bytes(2, 16), _bytes(3, 8)],  # ppoll
    280: [_path(1), _bytes(2, 32)],  # utimensat
    281: [_bytes(4, 8)],  # epoll_pwait
    286: [_bytes(2, 32)],  # timerfd_settime
    288: [_bytes(2, 4)],  # accept4
    302: [_bytes(2, 16)],  # prlimit64
    316: [_path(1), _path(3)],  # renameat2
    322: [_path(1)],  # execveat
    332: [_path(1)],  # statx
    435: [_array(0, 1, 1, 128)],  # clone3
    437: [_path(1), _array(2, 3, 1, 64)],  # openat2
    439: [_path(1)],  # faccessat2
    452: [_path(1)],  # fchmodat2
}


def install(platform: Platform) -> None:
    """Give the table to the platform.  Call once, after its start."""
    for number, rows in PREFETCH.items():
        platform.set_prefetch(number, rows)
