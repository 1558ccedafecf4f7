"""Packing and unpacking of the structs that cross the system call boundary (x86-64 layouts).

Owns the layouts.  Functions that decode what a guest wrote validate it and raise LinuxError; those that
encode trust the kernel's own values.  Times are nanoseconds as ints.  Every layout is compared with the
system's headers in tests/unit/abi.
"""

from struct import Struct
from typing import Final

from cloche.abi.errno import EFAULT, EINVAL, LinuxError
from cloche.abi.limits import MAX_RW_COUNT

_M32: Final = 0xFFFFFFFF
_M64: Final = 0xFFFFFFFFFFFFFFFF

U8: Final = Struct("<B")
U16: Final = Struct("<H")
U32: Final = Struct("<I")
U64: Final = Struct("<Q")
I32: Final = Struct("<i")
I64: Final = Struct("<q")


def pack_u16(value: int) -> bytes:
    """Two bytes, cut to 16 bits."""
    return U16.pack(value & 0xFFFF)


def pack_u32(value: int) -> bytes:
    """Four bytes, cut to 32 bits: negative values too."""
    return U32.pack(value & _M32)


def pack_u64(value: int) -> bytes:
    """Eight bytes, cut to 64 bits: negative values too."""
    return U64.pack(value & _M64)


def unpack_u16(data: bytes, offset: int) -> int:
    """The unsigned 16-bit value at `offset`."""
    value: int = U16.unpack_from(data, offset)[0]
    return value


def unpack_u32(data: bytes, offset: int) -> int:
    """The unsigned 32-bit value at `offset`."""
    value: int = U32.unpack_from(data, offset)[0]
    return value


def unpack_i32(data: bytes, offset: int) -> int:
    """The signed 32-bit value at `offset`."""
    value: int = I32.unpack_from(data, offset)[0]
    return value


def unpack_u64(data: bytes, offset: int) -> int:
    """The unsigned 64-bit value at `offset`."""
    value: int = U64.unpack_from(data, offset)[0]
    return value


def unpack_i64(data: bytes, offset: int) -> int:
    """The signed 64-bit value at `offset`."""
    value: int = I64.unpack_from(data, offset)[0]
    return value


# Files ----------------------------------------------------------------------------------------------------

STAT: Final = Struct("<QQQIIIIQqqqqQqQqQ24x")
STAT_SIZE: Final = 144
STATX: Final = Struct("<IIQIIIHxxQQQQqIxxxxqIxxxxqIxxxxqIxxxxIIIIQIIQIIII72x")
STATX_SIZE: Final = 256
STATFS: Final = Struct("<qqQQQQQiiqqq32x")
STATFS_SIZE: Final = 120
FLOCK: Final = Struct("<hhxxxxqqixxxx")
FLOCK_SIZE: Final = 32
OPEN_HOW: Final = Struct("<QQQ")
OPEN_HOW_SIZE: Final = 24
CACHESTAT_RANGE: Final = Struct("<QQ")  # off len
CACHESTAT: Final = Struct("<QQQQQ")  # cache dirty writeback evicted recently_evicted
IOVEC: Final = Struct("<QQ")
IOVEC_SIZE: Final = 16
F_OWNER_EX: Final = Struct("<ii")
F_OWNER_EX_SIZE: Final = 8
FILE_HANDLE: Final = Struct("<Ii")
FILE_HANDLE_SIZE: Final = 8
INOTIFY_EVENT: Final = Struct("<iIII")
INOTIFY_EVENT_SIZE: Final = 16
_DIRENT64: Final = Struct("<QqHB")
_DIRENT: Final = Struct("<QqH")


def pack_stat(
    st_dev: int,
    st_ino: int,
    st_nlink: int,
    st_mode: int,
    st_uid: int,
    st_gid: int,
    st_rdev: int,
    st_size: int,
    st_blksize: int,
    st_blocks: int,
    atime_ns: int,
    mtime_ns: int,
    ctime_ns: int,
) -> bytes:
    """struct stat, 144 bytes (stat(2)); times may lie before 1970."""
    return STAT.pack(
        st_dev,
        st_ino,
        st_nlink,
        st_mode,
        st_uid,
        st_gid,
        0,
        st_rdev,
        st_size,
        st_blksize,
        st_blocks,
        atime_ns // 1_000_000_000,
        atime_ns % 1_000_000_000,
        mtime_ns // 1_000_000_000,
        mtime_ns % 1_000_000_000,
        ctime_ns // 1_000_000_000,
        ctime_ns % 1_000_000_000,
    )


def pack_statx(
    mask: int,
    blksize: int,
    attributes: int,
    nlink: int,
    uid: int,
    gid: int,
    mode: int,
    ino: int,
    size: int,
    blocks: int,
    attributes_mask: int,
    atime_ns: int,
    btime_ns: int,
    ctime_ns: int,
    mtime_ns: int,
    rdev_major: int,
    rdev_minor: int,
    dev_major: int,
    dev_minor: int,
    mnt_id: int,
) -> bytes:
    """struct statx, 256 bytes (statx(2)); the direct I/O, subvolume and atomic write fields are zero."""
    return STATX.pack(
        mask,
        blksize,
        attributes,
        nlink,
        uid,
        gid,
        mode,
        ino,
        size,
        blocks,
        attributes_mask,
        atime_ns // 1_000_000_000,
        atime_ns % 1_000_000_000,
        btime_ns // 1_000_000_000,
        btime_ns % 1_000_000_000,
        ctime_ns // 1_000_000_000,
        ctime_ns % 1_000_000_000,
        mtime_ns // 1_000_000_000,
        mtime_ns % 1_000_000_000,
        rdev_major,
        rdev_minor,
        dev_major,
        dev_minor,
        mnt_id,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    )


def pack_statfs(
    f_type: int,
    f_bsize: int,
    f_blocks: int,
    f_bfree: int,
    f_bavail: int,
    f_files: int,
    f_ffree: int,
    f_fsid: int,
    f_namelen: int,
    f_frsize: int,
    f_flags: int,
) -> bytes:
    """struct statfs, 120 bytes (statfs(2)); `f_fsid` is a 64-bit number."""
    low = f_fsid & _M32
    high = (f_fsid >> 32) & _M32
    return STATFS.pack(
        f_type,
        f_bsize,
        f_blocks & _M64,  # as wide as options may ask for
        f_bfree & _M64,
        f_bavail & _M64,
        f_files & _M64,
        f_ffree & _M64,
        low - (1 << 32) if low >> 31 else low,
        high - (1 << 32) if high >> 31 else high,
        f_namelen,
        f_frsize,
        f_flags,
    )


def dirent64_size(name_bytes: int) -> int:
    """Bytes that pack_dirent64 makes of a name of that length."""
    return (name_bytes + 27) & ~7


def pack_dirent64(ino: int, off: int, d_type: int, name: bytes) -> bytes:
    """One record of getdents64(2); `off` is where the next read continues."""
    reclen = (len(name) + 27) & ~7
    return _DIRENT64.pack(ino & _M64, off, reclen, d_type) + name + bytes(reclen - 19 - len(name))


def dirent_size(name_bytes: int) -> int:
    """Bytes that pack_dirent makes of a name of that length."""
    return (name_bytes + 27) & ~7


def pack_dirent(ino: int, off: int, d_type: int, name: bytes) -> bytes:
    """One record of the old getdents(2): d_type is its last byte."""
    reclen = (len(name) + 27) & ~7
    return _DIRENT.pack(ino & _M64, off, reclen) + name + bytes(reclen - 19 - len(name)) + U8.pack(d_type)


def unpack_iovec(data: bytes) -> list[tuple[int, int]]:
    """(base, length) of each element of an array of struct iovec, whole elements only (readv(2)).

    The total is cut to MAX_RW_COUNT; a length that is negative as ssize_t raises EINVAL.
    """
    out: list[tuple[int, int]] = []
    left: int = MAX_RW_COUNT
    for base, length in IOVEC.iter_unpack(data):
        if length >> 63:
            raise LinuxError(EINVAL)
        if base >> 63 and length:
            raise LinuxError(EFAULT)
        if length > left:
            length = left
        left -= length
        out.append((base, length))
    return out


def unpack_flock(data: bytes) -> tuple[int, int, int, int, int]:
    """l_type, l_whence, l_start, l_len, l_pid (fcntl(2))."""
    l_type, whence, start, length, pid = FLOCK.unpack(data)
    return l_type, whence, start, length, pid


def pack_flock(l_type: int, whence: int, start: int, length: int, pid: int) -> bytes:
    """struct flock, 32 bytes."""
    return FLOCK.pack(l_type, whence, start, length, pid)


def unpack_open_how(data: bytes) -> tuple[int, int, int]:
    """flags, mode, resolve (openat2(2))."""
    flags, mode, resolve = OPEN_HOW.unpack_from(data, 0)
    return flags, mode, resolve


def pack_inotify_event(wd: int, mask: int, cookie: int, name: bytes) -> bytes:
    """One record of inotify(7); a name is padded to a multiple of the record's size."""
    length = 0 if not name else (len(name) + INOTIFY_EVENT_SIZE) & ~(INOTIFY_EVENT_SIZE - 1)
    return INOTIFY_EVENT.pack(wd, mask & _M32, cookie, length) + name + bytes(length - len(name))


# Time -----------------------------------------------------------------------------------------------------

TIMESPEC: Final = Struct("<qq")
TIMESPEC_SIZE: Final = 16
TIMEVAL: Final = Struct("<qq")
TIMEVAL_SIZE: Final = 16
ITIMERSPEC: Final = Struct("<qqqq")
ITIMERSPEC_SIZE: Final = 32
ITIMERVAL: Final = Struct("<qqqq")
ITIMERVAL_SIZE: Final = 32
TIMEZONE: Final = Struct("<ii")
TIMEZONE_SIZE: Final = 8
UTIMBUF: Final = Struct("<qq")
UTIMBUF_SIZE: Final = 16
TMS: Final = Struct("<qqqq")
TMS_SIZE: Final = 32
# modes offset freq maxerror esterror status constant precision tolerance time(2) tick ppsfreq jitter shift
# stabil jitcnt calcnt errcnt stbcnt tai
TIMEX: Final = Struct("<IxxxxqqqqixxxxqqqqqqqqixxxxqqqqqI44x")
TIMEX_SIZE: Final = 208

KTIME_MAX: Final = 0x7FFFFFFFFFFFFFFF  # nanoseconds: longer times are cut to it, as in Linux
_KTIME_SEC_MAX: Final = 9223372036


def timespec_to_ns(seconds: int, nanoseconds: int) -> int:
    """Validated as every timed call does: EINVAL if negative or not normalised; saturates at KTIME_MAX."""
    if seconds < 0 or nanoseconds < 0 or nanoseconds >= 1_000_000_000:
        raise LinuxError(EINVAL)
    if seconds >= _KTIME_SEC_MAX:
        return KTIME_MAX
    return seconds * 1_000_000_000 + nanoseconds


def timeval_to_ns(seconds: int, microseconds: int) -> int:
    """The same for microseconds."""
    if seconds < 0 or microseconds < 0 or microseconds >= 1_000_000:
        raise LinuxError(EINVAL)
    if seconds >= _KTIME_SEC_MAX:
        return KTIME_MAX
    return seconds * 1_000_000_000 + microseconds * 1000


def unpack_timespec(data: bytes) -> int:
    """A validated struct timespec in nanoseconds."""
    seconds, nanoseconds = TIMESPEC.unpack_from(data, 0)
    return timespec_to_ns(seconds, nanoseconds)


def unpack_timespec_raw(data: bytes, offset: int) -> tuple[int, int]:
    """tv_sec and tv_nsec unchecked: utimensat(2) gives some values of tv_nsec a meaning."""
    seconds, nanoseconds = TIMESPEC.unpack_from(data, offset)
    return seconds, nanoseconds


def unpack_timeval(data: bytes) -> int:
    """A validated struct timeval in nanoseconds."""
    seconds, microseconds = TIMEVAL.unpack_from(data, 0)
    return timeval_to_ns(seconds, microseconds)


def unpack_timeval_raw(data: bytes, offset: int) -> tuple[int, int]:
    """tv_sec and tv_usec unchecked."""
    seconds, microseconds = TIMEVAL.unpack_from(data, offset)
    return seconds, microseconds


def pack_timespec(ns: int) -> bytes:
    """struct timespec, 16 bytes."""
    return TIMESPEC.pack(ns // 1_000_000_000, ns % 1_000_000_000)


def pack_timeval(ns: int) -> bytes:
    """struct timeval, 16 bytes, rounded down to microseconds."""
    return TIMEVAL.pack(ns // 1_000_000_000, ns % 1_000_000_000 // 1000)


def unpack_itimerspec(data: bytes) -> tuple[int, int]:
    """(interval, value) in nanoseconds, validated (timer_settime(2), timerfd_settime(2))."""
    interval_s, interval_ns, value_s, value_ns = ITIMERSPEC.unpack_from(data, 0)
    return timespec_to_ns(interval_s, interval_ns), timespec_to_ns(value_s, value_ns)


def pack_itimerspec(interval_ns: int, value_ns: int) -> bytes:
    """struct itimerspec, 32 bytes."""
    return ITIMERSPEC.pack(
        interval_ns // 1_000_000_000,
        interval_ns % 1_000_000_000,
        value_ns // 1_000_000_000,
        value_ns % 1_000_000_000,
    )


def unpack_itimerval(data: bytes) -> tuple[int, int]:
    """(interval, value) in nanoseconds, validated (setitimer(2))."""
    interval_s, interval_us, value_s, value_us = ITIMERVAL.unpack_from(data, 0)
    return timeval_to_ns(interval_s, interval_us), timeval_to_ns(value_s, value_us)


def pack_itimerval(interval_ns: int, value_ns: int) -> bytes:
    """struct itimerval, 32 bytes."""
    return ITIMERVAL.pack(
        interval_ns // 1_000_000_000,
        interval_ns % 1_000_000_000 // 1000,
        value_ns // 1_000_000_000,
        value_ns % 1_000_000_000 // 1000,
    )


def pack_tms(utime_ticks: int, stime_ticks: int, cutime_ticks: int, cstime_ticks: int) -> bytes:
    """struct tms, 32 bytes, in clock ticks (times(2))."""
    return TMS.pack(utime_ticks, stime_ticks, cutime_ticks, cstime_ticks)


# Processes and the system ---------------------------------------------------------------------------------

# utime stime maxrss ixrss idrss isrss minflt majflt nswap inblock oublock msgsnd msgrcv nsignals nvcsw nivcsw
RUSAGE: Final = Struct("<qqqqqqqqqqqqqqqqqq")
RUSAGE_SIZE: Final = 144
# uptime loads[3] totalram freeram sharedram bufferram totalswap freeswap procs totalhigh freehigh mem_unit
SYSINFO: Final = Struct("<qQQQQQQQQQHxxxxxxQQIxxxx")
SYSINFO_SIZE: Final = 112
UTSNAME: Final = Struct("<65s65s65s65s65s65s")
UTSNAME_SIZE: Final = 390
RLIMIT: Final = Struct("<QQ")
RLIMIT_SIZE: Final = 16
CLONE_ARGS: Final = Struct("<QQQQQQQQQQQ")
CLONE_ARGS_SIZE: Final = 88
CAP_HEADER: Final = Struct("<Ii")
CAP_HEADER_SIZE: Final = 8
CAP_DATA: Final = Struct("<III")
CAP_DATA_SIZE: Final = 12
ROBUST_LIST_HEAD: Final = Struct("<QqQ")
ROBUST_LIST_HEAD_SIZE: Final = 24
# size policy flags nice priority runtime deadline period util_min util_max
SCHED_ATTR: Final = Struct("<IIQiIQQQII")
SCHED_ATTR_SIZE: Final = 56
SCHED_PARAM: Final = Struct("<i")
SCHED_PARAM_SIZE: Final = 4
SECCOMP_DATA: Final = Struct("<iIQQQQQQQ")
SECCOMP_DATA_SIZE: Final = 64
SOCK_FILTER: Final = Struct("<HBBI")
SOCK_FILTER_SIZE: Final = 8
SOCK_FPROG: Final = Struct("<HxxxxxxQ")
SOCK_FPROG_SIZE: Final = 16


def pack_rusage(
    utime_ns: int,
    stime_ns: int,
    maxrss_kib: int,
    minflt: int,
    majflt: int,
    inblock: int,
    oublock: int,
    nvcsw: int,
    nivcsw: int,
) -> bytes:
    """struct rusage, 144 bytes; Linux leaves the other fields zero (getrusage(2))."""
    return RUSAGE.pack(
        utime_ns // 1_000_000_000,
        utime_ns % 1_000_000_000 // 1000,
        stime_ns // 1_000_000_000,
        stime_ns % 1_000_000_000 // 1000,
        maxrss_kib,
        0,
        0,
        0,
        minflt,
        majflt,
        0,
        inblock,
        oublock,
        0,
        0,
        0,
        nvcsw,
        nivcsw,
    )


def pack_sysinfo(
    uptime_s: int,
    loads: tuple[int, int, int],
    totalram: int,
    freeram: int,
    sharedram: int,
    bufferram: int,
    totalswap: int,
    freeswap: int,
    procs: int,
) -> bytes:
    """struct sysinfo, 112 bytes, memory in bytes, loads in 1/65536 (sysinfo(2))."""
    return SYSINFO.pack(
        uptime_s,
        loads[0],
        loads[1],
        loads[2],
        totalram,
        freeram,
        sharedram,
        bufferram,
        totalswap,
        freeswap,
        min(procs, 0xFFFF),
        0,
        0,
        1,
    )


def pack_utsname(
    sysname: bytes, nodename: bytes, release: bytes, version: bytes, machine: bytes, domainname: bytes
) -> bytes:
    """struct new_utsname, 390 bytes; each name at most 64 bytes (uname(2))."""
    return UTSNAME.pack(
        sysname[:64], nodename[:64], release[:64], version[:64], machine[:64], domainname[:64]
    )


def unpack_rlimit(data: bytes) -> tuple[int, int]:
    """(soft, hard); infinity is RLIM_INFINITY, 2^64-1 (getrlimit(2))."""
    soft, hard = RLIMIT.unpack_from(data, 0)
    return soft, hard


def pack_rlimit(soft: int, hard: int) -> bytes:
    """struct rlimit64, 16 bytes."""
    return RLIMIT.pack(soft, hard)


class CloneArgs:
    """struct clone_args, decoded (clone3(2)); fields that an older struct lacks are zero."""

    def __init__(self, data: bytes) -> None:
        if len(data) < CLONE_ARGS_SIZE:
            data = data + bytes(CLONE_ARGS_SIZE - len(data))
        fields: tuple[int, ...] = CLONE_ARGS.unpack_from(data, 0)
        self.flags: int = fields[0]
        self.pidfd: int = fields[1]
        self.child_tid: int = fields[2]
        self.parent_tid: int = fields[3]
        self.exit_signal: int = fields[4]
        self.stack: int = fields[5]
        self.stack_size: int = fields[6]
        self.tls: int = fields[7]
        self.set_tid: int = fields[8]
        self.set_tid_size: int = fields[9]
        self.cgroup: int = fields[10]


def unpack_cap_header(data: bytes) -> tuple[int, int]:
    """(version, pid) of capget(2)."""
    version, pid = CAP_HEADER.unpack_from(data, 0)
    return version, pid


def unpack_cap_data(data: bytes) -> tuple[int, int, int]:
    """(effective, permitted, inheritable) as 64-bit sets, of one or two user_cap_data elements."""
    effective, permitted, inheritable = CAP_DATA.unpack_from(data, 0)
    if len(data) >= 2 * CAP_DATA_SIZE:
        high_e, high_p, high_i = CAP_DATA.unpack_from(data, CAP_DATA_SIZE)
        effective |= high_e << 32
        permitted |= high_p << 32
        inheritable |= high_i << 32
    return effective, permitted, inheritable


def pack_cap_data(effective: int, permitted: int, inheritable: int) -> bytes:
    """Two user_cap_data elements, 24 bytes; version 1 takes the first 12."""
    return CAP_DATA.pack(effective & _M32, permitted & _M32, inheritable & _M32) + CAP_DATA.pack(
        (effective >> 32) & _M32, (permitted >> 32) & _M32, (inheritable >> 32) & _M32
    )


def unpack_robust_list_head(data: bytes) -> tuple[int, int, int]:
    """(first entry, futex offset, pending entry); entries carry the PI flag in bit 0 (get_robust_list(2))."""
    first, offset, pending = ROBUST_LIST_HEAD.unpack_from(data, 0)
    return first, offset, pending


# poll and epoll -------------------------------------------------------------------------------------------

POLLFD: Final = Struct("<ihH")
POLLFD_SIZE: Final = 8
EPOLL_EVENT: Final = Struct("<IQ")  # packed on x86-64
EPOLL_EVENT_SIZE: Final = 12


def unpack_pollfds(data: bytes) -> list[tuple[int, int]]:
    """(fd, requested events) of each element of an array of struct pollfd."""
    return [(fd, events & 0xFFFF) for fd, events, _revents in POLLFD.iter_unpack(data)]


def pack_pollfd(fd: int, events: int, revents: int) -> bytes:
    """struct pollfd, 8 bytes."""
    return POLLFD.pack(fd, events - 0x10000 if events >> 15 & 1 else events, revents)


def unpack_epoll_event(data: bytes) -> tuple[int, int]:
    """(events, data)."""
    events, value = EPOLL_EVENT.unpack_from(data, 0)
    return events, value


def pack_epoll_event(events: int, data: int) -> bytes:
    """struct epoll_event, 12 bytes."""
    return EPOLL_EVENT.pack(events, data)


# ------------------------------------------------------------------------------------------


# Terminals ------------------------------------------------------------------------------------------------

WINSIZE: Final = Struct("<HHHH")
WINSIZE_SIZE: Final = 8
TERMIOS: Final = Struct("<IIIIB19s")  # the kernel's: iflag oflag cflag lflag line cc[19]
TERMIOS_SIZE: Final = 36
TERMIOS2: Final = Struct("<IIIIB19sII")
TERMIOS2_SIZE: Final = 44
TERMIO: Final = Struct("<HHHHB8sx")
TERMIO_SIZE: Final = 18


def unpack_winsize(data: bytes) -> tuple[int, int, int, int]:
    """(rows, columns, x pixels, y pixels)."""
    row, col, xpixel, ypixel = WINSIZE.unpack_from(data, 0)
    return row, col, xpixel, ypixel


def pack_winsize(row: int, col: int, xpixel: int, ypixel: int) -> bytes:
    """struct winsize, 8 bytes."""
    return WINSIZE.pack(row, col, xpixel, ypixel)


def unpack_termios(data: bytes) -> tuple[int, int, int, int, int, bytes]:
    """(iflag, oflag, cflag, lflag, line, cc); cc has 19 bytes."""
    iflag, oflag, cflag, lflag, line, cc = TERMIOS.unpack_from(data, 0)
    return iflag, oflag, cflag, lflag, line, cc


def pack_termios(iflag: int, oflag: int, cflag: int, lflag: int, line: int, cc: bytes) -> bytes:
    """The kernel's struct termios, 36 bytes."""
    return TERMIOS.pack(iflag, oflag, cflag, lflag, line, cc)


def unpack_termios2(data: bytes) -> tuple[int, int, int, int, int, bytes, int, int]:
    """As unpack_termios, and (ispeed, ospeed)."""
    iflag, oflag, cflag, lflag, line, cc, ispeed, ospeed = TERMIOS2.unpack_from(data, 0)
    return iflag, oflag, cflag, lflag, line, cc, ispeed, ospeed


def pack_termios2(
    iflag: int, oflag: int, cflag: int, lflag: int, line: int, cc: bytes, ispeed: int, ospeed: int
) -> bytes:
    """struct termios2, 44 bytes."""
    return TERMIOS2.pack(iflag, oflag, cflag, lflag, line, cc, ispeed, ospeed)


# ------------------------------------------------------------------------------------------


# ------------------------------------------------------------------
