"""The sentry's seccomp allow-list, as data.

Not on it, on purpose: execve, clone, socket, connect, bind, sendmsg (its address cannot be checked: a donated
datagram socket could be pointed elsewhere), ptrace, mount, unshare, setuid and its kin, any call that takes a path,
and executable memory. Nor are calls that only the start needs: making processes, pipes, eventfds, epoll and signal
descriptors. The filter is installed after those, and before the first byte of a guest is read. Calls that only one
platform needs stand in its own list.
"""

from typing import Final

from cloche.abi.errno import EACCES, ENOSYS, ENOTTY, EPERM
from cloche.abi.fcntl import AT_EMPTY_PATH, F_ADD_SEALS, F_DUPFD_CLOEXEC, F_GET_SEALS, F_GETFD, F_GETFL
from cloche.abi.inet import IPPROTO_TCP
from cloche.abi.ioctl import (
    FIONBIO,
    FIONREAD,
    TCGETS,
    TCSETS,
    TCSETSF,
    TIOCGWINSZ,
    TIOCOUTQ,
    TIOCSWINSZ,
)
from cloche.abi.mman import PROT_EXEC
from cloche.abi.signal import SIGCONT, SIGKILL, SIGSTOP, SIGURG
from cloche.abi.socket import SO_KEEPALIVE, SO_LINGER, SO_OOBINLINE, SOL_SOCKET
from cloche.abi.tcp import (
    TCP_CORK,
    TCP_INFO,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_NODELAY,
    TCP_USER_TIMEOUT,
)
from cloche.arch.syscalls import (
    SYS_accept4,
    SYS_access,
    SYS_brk,
    SYS_clock_getres,
    SYS_clock_gettime,
    SYS_close,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_wait,
    SYS_exit_group,
    SYS_fallocate,
    SYS_fcntl,
    SYS_fdatasync,
    SYS_fstat,
    SYS_fsync,
    SYS_ftruncate,
    SYS_futex,
    SYS_getcwd,
    SYS_getpeername,
    SYS_getpgid,
    SYS_getpid,
    SYS_getrandom,
    SYS_getrusage,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_gettid,
    SYS_ioctl,
    SYS_kill,
    SYS_lseek,
    SYS_lstat,
    SYS_madvise,
    SYS_membarrier,
    SYS_memfd_create,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_munmap,
    SYS_newfstatat,
    SYS_open,
    SYS_openat,
    SYS_poll,
    SYS_ppoll,
    SYS_pread64,
    SYS_preadv2,
    SYS_prlimit64,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_pwrite64,
    SYS_pwritev2,
    SYS_read,
    SYS_readlink,
    SYS_readlinkat,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_restart_syscall,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sched_getaffinity,
    SYS_sched_setaffinity,
    SYS_sched_yield,
    SYS_sendto,
    SYS_setpgid,
    SYS_setsockopt,
    SYS_shutdown,
    SYS_sigaltstack,
    SYS_stat,
    SYS_statx,
    SYS_sysinfo,
    SYS_tgkill,
    SYS_uname,
    SYS_wait4,
    SYS_waitid,
    SYS_write,
)
from cloche.boot.seccomp import Allow, Policy, Refuse, int_has_all, int_has_none, int_is, int_is_not, is_null

_O_WRITE_BITS: Final = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000  # WRONLY RDWR CREAT TRUNC __O_TMPFILE

# linux/seccomp.h; the magic is '!'
_SECCOMP_IOCTL_NOTIF_RECV: Final = 0xC0502100
_SECCOMP_IOCTL_NOTIF_SEND: Final = 0xC0182101
_SECCOMP_IOCTL_NOTIF_ADDFD: Final = 0x40182103
_SECCOMP_IOCTL_NOTIF_SET_FLAGS: Final = 0x40082104
_EXPEDITED: Final = 2  # MEMBARRIER_CMD_GLOBAL_EXPEDITED

# First, because the filter is a chain.
_LOOP: Final[list[Allow]] = [
    Allow(SYS_futex, "waking guest threads; the interpreter's locks"),
    Allow(SYS_epoll_wait, "the event loop"),
    Allow(SYS_ppoll, "the event loop, with nanoseconds"),
]

# What each platform needs besides: first the calls for the hand-off, which are tested early, then those for its
# processes, which are tested last.
_SYSTRAP: Final[list[Allow]] = [
    Allow(SYS_ioctl, "notifications of guests: receive", [int_is(1, _SECCOMP_IOCTL_NOTIF_RECV)]),
    Allow(SYS_ioctl, "notifications of guests: answer", [int_is(1, _SECCOMP_IOCTL_NOTIF_SEND)]),
    Allow(
        SYS_ioctl, "notifications of guests: donate a file to map", [int_is(1, _SECCOMP_IOCTL_NOTIF_ADDFD)]
    ),
    Allow(
        SYS_ioctl, "notifications of guests: synchronous wake", [int_is(1, _SECCOMP_IOCTL_NOTIF_SET_FLAGS)]
    ),
    Allow(SYS_process_vm_readv, "large copies from guest memory"),
    Allow(SYS_process_vm_writev, "large copies to guest memory"),
]

_SYSTRAP_PROCESSES: Final[list[Allow]] = [
    # Guests' processes. A pid namespace hides all others; without one, a guest still cannot choose which host pid is
    # signalled (I2). Never the sentry itself, nor -1 (every process); no signal for which a program could have a
    # handler.
    *[
        Allow(
            SYS_kill,
            "ending, stopping and continuing guest processes",
            [int_is(1, signo), int_is_not(0, -1), int_is_not(0, 0)],
        )
        for signo in (SIGKILL, SIGSTOP, SIGCONT)
    ],
    Allow(SYS_tgkill, "whether a guest thread is there", [int_is(2, 0)]),
    Allow(SYS_tgkill, "interrupting guest threads", [int_is(2, SIGURG)]),
    Allow(SYS_wait4, "reaping guest processes, CPU time"),
    Allow(SYS_waitid, "reaping guest processes"),
    Allow(SYS_setpgid, "adopting a forked guest process"),
    Allow(SYS_getpgid, "proving a forked guest process"),
]

_PLATFORMS: Final[dict[str, tuple[list[Allow], list[Allow]]]] = {
    "systrap": (_SYSTRAP, _SYSTRAP_PROCESSES),
    "kvm": (_SYSTRAP, _SYSTRAP_PROCESSES),  # everything else is done by the guests' processes
}

_ALLOWED: Final[list[Allow]] = [
    Allow(SYS_poll, "looking before each receive; readiness of host descriptors"),
    # Files and pipes that the gofer, the broker or the monitor donated.
    Allow(SYS_read, "donated descriptors, signalfd"),
    Allow(SYS_write, "donated descriptors, the log"),
    Allow(SYS_pread64, "donated files"),
    Allow(SYS_pwrite64, "donated files"),
    Allow(SYS_preadv2, "donated files and pipes, RWF_NOWAIT"),
    Allow(SYS_pwritev2, "donated files and pipes, RWF_NOWAIT"),
    Allow(SYS_lseek, "SEEK_DATA and SEEK_HOLE of donated files"),
    Allow(SYS_fstat, "sizes of donated files"),
    Allow(SYS_newfstatat, "fstat in new C libraries", [int_has_all(3, AT_EMPTY_PATH)]),
    Allow(SYS_ftruncate, "memfds, donated files opened for writing"),
    Allow(SYS_fallocate, "memfds (punching holes), donated files"),
    Allow(SYS_fsync, "donated files opened for writing"),
    Allow(SYS_fdatasync, "donated files opened for writing"),
    Allow(SYS_close, "descriptors"),
    Allow(SYS_fcntl, "another descriptor of the same file", [int_is(1, F_DUPFD_CLOEXEC)]),
    Allow(SYS_fcntl, "how a descriptor was opened", [int_is(1, F_GETFL)]),
    Allow(SYS_fcntl, "whether a descriptor is closed by exec", [int_is(1, F_GETFD)]),
    Allow(SYS_fcntl, "seals of memfds", [int_is(1, F_ADD_SEALS)]),
    Allow(SYS_fcntl, "seals of memfds", [int_is(1, F_GET_SEALS)]),
    # Terminals and pipes.
    Allow(SYS_ioctl, "bytes to read", [int_is(1, FIONREAD)]),
    Allow(SYS_ioctl, "bytes not yet sent", [int_is(1, TIOCOUTQ)]),
    Allow(SYS_ioctl, "non-blocking mode", [int_is(1, FIONBIO)]),
    Allow(SYS_ioctl, "terminal attributes; isatty", [int_is(1, TCGETS)]),
    Allow(SYS_ioctl, "terminal attributes", [int_is(1, TCSETS)]),
    Allow(SYS_ioctl, "terminal attributes", [int_is(1, TCSETSF)]),
    Allow(SYS_ioctl, "terminal size", [int_is(1, TIOCGWINSZ)]),
    Allow(SYS_ioctl, "terminal size", [int_is(1, TIOCSWINSZ)]),
    # Sockets: donated, never made.
    Allow(SYS_recvmsg, "descriptors from the gofer, the broker and the monitor"),
    Allow(SYS_recvfrom, "donated sockets"),
    Allow(SYS_sendto, "donated sockets, never to another address", [is_null(4)]),
    Allow(SYS_getsockopt, "the kind of a donated socket, its error", [int_is(1, SOL_SOCKET)]),
    Allow(SYS_getsockname, "the interpreter's socket objects"),
    # Memory: never executable.
    Allow(SYS_mmap, "the interpreter's memory, regions shared with guests", [int_has_none(2, PROT_EXEC)]),
    Allow(SYS_munmap, "memory"),
    Allow(SYS_mprotect, "memory; never executable", [int_has_none(2, PROT_EXEC)]),
    Allow(SYS_mremap, "the C library's realloc"),
    Allow(SYS_madvise, "the C library's free, regions"),
    Allow(SYS_brk, "the C library's heap"),
    Allow(SYS_memfd_create, "tmpfs, shared memory, regions"),
    Allow(SYS_membarrier, "ordering with guests on other processors", [int_is(0, _EXPEDITED)]),
    # Events and time.
    Allow(SYS_epoll_ctl, "the event loop"),
    Allow(SYS_clock_gettime, "where the vDSO has no clock; CPU time of guests"),
    Allow(SYS_clock_getres, "clock_getres of guests; whether a guest's clock is there"),
    Allow(SYS_restart_syscall, "continuing after SIGSTOP and SIGCONT"),
    # The interpreter and the C library.
    Allow(SYS_rt_sigreturn, "returning from a signal"),
    Allow(SYS_getrandom, "getrandom and /dev/urandom of guests, AT_RANDOM"),
    Allow(SYS_sched_yield, "spinning"),
    Allow(SYS_sched_getaffinity, "the number of processors", [int_is(0, 0)]),
    Allow(SYS_sched_setaffinity, "leaving the processor on which a guest wants to run", [int_is(0, 0)]),
    Allow(SYS_getrusage, "its own CPU time and its children's"),
    Allow(SYS_prlimit64, "reading its own limits", [int_is(0, 0), is_null(2)]),
    Allow(SYS_exit_group, "the end"),
]

# Only with ports that are published (-p) or reachable, or a way out, of connections that are handed in.
_PORTS: Final[list[Allow]] = [
    Allow(SYS_shutdown, "the end of what is sent"),
    Allow(SYS_getsockopt, "TCP_INFO", [int_is(1, IPPROTO_TCP), int_is(2, TCP_INFO)]),
    *[
        Allow(SYS_setsockopt, "what a server asks for", [int_is(1, IPPROTO_TCP), int_is(2, option)])
        for option in (
            TCP_NODELAY,
            TCP_CORK,
            TCP_KEEPIDLE,
            TCP_KEEPINTVL,
            TCP_KEEPCNT,
            TCP_USER_TIMEOUT,
        )
    ],
    *[
        Allow(SYS_setsockopt, "what a server asks for, resets", [int_is(1, SOL_SOCKET), int_is(2, option)])
        for option in (SO_KEEPALIVE, SO_LINGER, SO_OOBINLINE)
    ],
]

# Only with a network namespace, of the sockets that the network process gives away.
_NETWORK: Final[list[Allow]] = [
    Allow(SYS_accept4, "connections to servers; only sockets that listen have any"),
    Allow(SYS_getpeername, "who they are from"),
]

# Only with volumes in which programs may bind Unix sockets, or connect to the host's.
_DOORS: Final[list[Allow]] = [
    Allow(SYS_accept4, "clients of Unix sockets in volumes; only sockets that listen have any"),
    Allow(SYS_shutdown, "the end of what is sent"),
]

# Calls that the interpreter and the C library try without needing them: they fail instead of killing.
_REFUSED: Final[list[Refuse]] = [
    Refuse(SYS_openat, EACCES, "a traceback or a late import looks for files"),
    Refuse(SYS_open, EACCES, "a traceback or a late import looks for files"),
    Refuse(SYS_newfstatat, EACCES, "a traceback or a late import looks for files"),
    Refuse(SYS_stat, EACCES, "a late import looks for files"),
    Refuse(SYS_lstat, EACCES, "a late import looks for files"),
    Refuse(SYS_statx, ENOSYS, "new C libraries fall back to newfstatat"),
    Refuse(SYS_readlink, EACCES, "the interpreter looks for itself"),
    Refuse(SYS_readlinkat, EACCES, "the interpreter looks for itself"),
    Refuse(SYS_access, EACCES, "the interpreter looks for files"),
    Refuse(SYS_getcwd, EACCES, "a traceback makes paths absolute"),
    Refuse(SYS_epoll_pwait, ENOSYS, "some C libraries try it before epoll_wait"),
    Refuse(SYS_ioctl, ENOTTY, "isatty, which asks differently in new C libraries"),
    Refuse(SYS_rt_sigaction, EPERM, "the interpreter at its end, abort"),
    Refuse(SYS_rt_sigprocmask, EPERM, "abort"),
    Refuse(SYS_sigaltstack, EPERM, "the interpreter at its end"),
    Refuse(SYS_getpid, EPERM, "abort"),
    Refuse(SYS_gettid, EPERM, "abort"),
    Refuse(SYS_uname, EPERM, "late imports"),
    Refuse(SYS_sysinfo, EPERM, "the C library's sorting and sysconf"),
]


def sentry_policy(
    proc_fd: int = -1,
    platform: str = "systrap",
    *,
    has_ports: bool = True,
    has_network: bool = True,
    has_doors: bool = False,
) -> Policy:
    """The allow-list of the sentry on that platform.

    `proc_fd` is a directory descriptor of a procfs, below which files may be opened for reading (proofs of
    adoption, memory of guests); -1 for none.  An absolute path would ignore it, so this relies on the empty
    root as well.  `has_ports`: whether connections are handed in; `has_network`: a network process; `has_doors`:
    Unix sockets of volumes are the host's.
    """
    first, last = _PLATFORMS[platform]
    allowed = [*_LOOP, *first, *_ALLOWED, *last]
    if has_ports:
        allowed.extend(_PORTS)
    if has_network:
        allowed.extend(_NETWORK)
    if has_doors:
        known = {each.number for each in allowed}
        allowed.extend([each for each in _DOORS if each.number not in known])
    if proc_fd >= 0:
        checks = [int_is(0, proc_fd), int_has_none(2, _O_WRITE_BITS)]
        allowed.append(Allow(SYS_openat, "files of guest processes in /proc", checks))
    return Policy("sentry", allowed, _REFUSED)
