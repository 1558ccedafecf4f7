"""The sentry's seccomp allow-list, as data.

Not on it, on purpose: execve, clone, socket, connect, bind, sendmsg (its address cannot be checked: a donated
datagram socket could be pointed elsewhere), ptrace, mount, unshare, setuid and its kin, any call that takes a
path, executable memory. Platforms add what they need through `extra`.
"""

from typing import Final

from cloche.abi.errno import EACCES, ENOSYS
from cloche.abi.ioctl import (
    FIONBIO,
    FIONREAD,
    TCGETS,
    TCSETS,
    TCSETSF,
    TCSETSW,
    TIOCGPGRP,
    TIOCGWINSZ,
    TIOCOUTQ,
    TIOCSWINSZ,
)
from cloche.abi.mman import PROT_EXEC
from cloche.abi.socket import AF_UNIX
from cloche.arch.x86_64.syscalls import (
    SYS_accept4,
    SYS_access,
    SYS_brk,
    SYS_clock_getres,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_close,
    SYS_close_range,
    SYS_copy_file_range,
    SYS_dup,
    SYS_dup2,
    SYS_dup3,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_epoll_pwait2,
    SYS_epoll_wait,
    SYS_eventfd2,
    SYS_exit,
    SYS_exit_group,
    SYS_fadvise64,
    SYS_fallocate,
    SYS_fcntl,
    SYS_fdatasync,
    SYS_flock,
    SYS_fstat,
    SYS_fstatfs,
    SYS_fsync,
    SYS_ftruncate,
    SYS_futex,
    SYS_getcwd,
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getpeername,
    SYS_getpgid,
    SYS_getpid,
    SYS_getppid,
    SYS_getrandom,
    SYS_getrusage,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_gettid,
    SYS_getuid,
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
    SYS_nanosleep,
    SYS_newfstatat,
    SYS_open,
    SYS_openat,
    SYS_pidfd_send_signal,
    SYS_pipe2,
    SYS_poll,
    SYS_ppoll,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_prlimit64,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_pselect6,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_pwritev2,
    SYS_read,
    SYS_readlink,
    SYS_readlinkat,
    SYS_readv,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_restart_syscall,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigtimedwait,
    SYS_sched_getaffinity,
    SYS_sched_setaffinity,
    SYS_sched_yield,
    SYS_sendfile,
    SYS_sendto,
    SYS_setpgid,
    SYS_setsockopt,
    SYS_shutdown,
    SYS_sigaltstack,
    SYS_signalfd4,
    SYS_socketpair,
    SYS_stat,
    SYS_statx,
    SYS_sync_file_range,
    SYS_sysinfo,
    SYS_tgkill,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_uname,
    SYS_wait4,
    SYS_waitid,
    SYS_write,
    SYS_writev,
)
from cloche.boot.seccomp import Allow, Policy, Refuse, int_has_all, int_has_none, int_is, is_null

_AT_EMPTY_PATH: Final = 0x1000
_O_WRITE_BITS: Final = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000  # WRONLY RDWR CREAT TRUNC __O_TMPFILE

# linux/seccomp.h; the magic is '!'
_SECCOMP_IOCTL_NOTIF_RECV: Final = 0xC0502100
_SECCOMP_IOCTL_NOTIF_SEND: Final = 0xC0182101
_SECCOMP_IOCTL_NOTIF_ID_VALID: Final = 0x40082102
_SECCOMP_IOCTL_NOTIF_ID_VALID_OLD: Final = 0x80082102
_SECCOMP_IOCTL_NOTIF_ADDFD: Final = 0x40182103
_SECCOMP_IOCTL_NOTIF_SET_FLAGS: Final = 0x40082104

_ALLOWED: Final[list[Allow]] = [
    # The hand-off: first, because the filter is a chain.
    Allow(SYS_futex, "waking guest threads; the interpreter's locks"),
    Allow(SYS_epoll_wait, "the event loop"),
    Allow(SYS_epoll_pwait, "the event loop"),
    Allow(SYS_epoll_pwait2, "the event loop, with nanoseconds"),
    Allow(SYS_ioctl, "notifications of guests: receive", [int_is(1, _SECCOMP_IOCTL_NOTIF_RECV)]),
    Allow(SYS_ioctl, "notifications of guests: answer", [int_is(1, _SECCOMP_IOCTL_NOTIF_SEND)]),
    Allow(SYS_ioctl, "notifications of guests: check", [int_is(1, _SECCOMP_IOCTL_NOTIF_ID_VALID)]),
    Allow(SYS_ioctl, "the same on Linux before 5.17", [int_is(1, _SECCOMP_IOCTL_NOTIF_ID_VALID_OLD)]),
    Allow(
        SYS_ioctl, "notifications of guests: donate a file to map", [int_is(1, _SECCOMP_IOCTL_NOTIF_ADDFD)]
    ),
    Allow(
        SYS_ioctl, "notifications of guests: synchronous wake", [int_is(1, _SECCOMP_IOCTL_NOTIF_SET_FLAGS)]
    ),
    Allow(SYS_process_vm_readv, "large copies from guest memory"),
    Allow(SYS_process_vm_writev, "large copies to guest memory"),
    Allow(SYS_poll, "looking before each receive"),
    # Files and pipes that the gofer, egress or the runtime donated.
    Allow(SYS_read, "donated descriptors, eventfds, signalfd, timerfd"),
    Allow(SYS_write, "donated descriptors, eventfds, the log"),
    Allow(SYS_pread64, "donated files"),
    Allow(SYS_pwrite64, "donated files"),
    Allow(SYS_readv, "donated descriptors"),
    Allow(SYS_writev, "donated descriptors"),
    Allow(SYS_preadv, "donated files"),
    Allow(SYS_pwritev, "donated files"),
    Allow(SYS_preadv2, "donated files, RWF_NOWAIT"),
    Allow(SYS_pwritev2, "donated files, RWF_NOWAIT"),
    Allow(SYS_lseek, "SEEK_DATA and SEEK_HOLE of donated files"),
    Allow(SYS_fstat, "sizes of donated files"),
    Allow(SYS_newfstatat, "fstat in new C libraries", [int_has_all(3, _AT_EMPTY_PATH)]),
    Allow(SYS_fstatfs, "statfs of donated files"),
    Allow(SYS_ftruncate, "memfds, donated files opened for writing"),
    Allow(SYS_fallocate, "memfds (punching holes), donated files"),
    Allow(SYS_fadvise64, "posix_fadvise of donated files"),
    Allow(SYS_fsync, "donated files opened for writing"),
    Allow(SYS_fdatasync, "donated files opened for writing"),
    Allow(SYS_sync_file_range, "donated files opened for writing"),
    Allow(SYS_copy_file_range, "copies between donated files"),
    Allow(SYS_sendfile, "copies between donated files"),
    Allow(SYS_flock, "flock on shared host files"),
    Allow(SYS_close, "descriptors"),
    Allow(SYS_close_range, "descriptors"),
    Allow(SYS_dup, "descriptors"),
    Allow(SYS_dup2, "descriptors"),
    Allow(SYS_dup3, "descriptors"),
    Allow(SYS_fcntl, "descriptor flags, pipe sizes, seals, open-file locks"),
    # Terminals and pipes.
    Allow(SYS_ioctl, "bytes to read", [int_is(1, FIONREAD)]),
    Allow(SYS_ioctl, "bytes not yet sent", [int_is(1, TIOCOUTQ)]),
    Allow(SYS_ioctl, "non-blocking mode", [int_is(1, FIONBIO)]),
    Allow(SYS_ioctl, "terminal attributes; isatty", [int_is(1, TCGETS)]),
    Allow(SYS_ioctl, "terminal attributes", [int_is(1, TCSETS)]),
    Allow(SYS_ioctl, "terminal attributes", [int_is(1, TCSETSW)]),
    Allow(SYS_ioctl, "terminal attributes", [int_is(1, TCSETSF)]),
    Allow(SYS_ioctl, "terminal size", [int_is(1, TIOCGWINSZ)]),
    Allow(SYS_ioctl, "terminal size", [int_is(1, TIOCSWINSZ)]),
    Allow(SYS_ioctl, "foreground group of a terminal", [int_is(1, TIOCGPGRP)]),
    # Sockets: donated, never made (a socketpair reaches nobody else).
    Allow(SYS_recvmsg, "descriptors from the gofer, egress and the control socket"),
    Allow(SYS_recvfrom, "donated sockets"),
    Allow(SYS_sendto, "donated sockets, never to another address", [is_null(4)]),
    Allow(SYS_accept4, "the control socket, published ports"),
    Allow(SYS_shutdown, "donated sockets"),
    Allow(SYS_getsockopt, "donated sockets"),
    Allow(SYS_setsockopt, "donated sockets"),
    Allow(SYS_getsockname, "donated sockets"),
    Allow(SYS_getpeername, "donated sockets"),
    Allow(SYS_socketpair, "wake-ups inside the sentry", [int_is(0, AF_UNIX)]),
    # Memory: never executable.
    Allow(SYS_mmap, "the interpreter's memory, regions shared with guests", [int_has_none(2, PROT_EXEC)]),
    Allow(SYS_munmap, "memory"),
    Allow(SYS_mprotect, "memory; never executable", [int_has_none(2, PROT_EXEC)]),
    Allow(SYS_mremap, "the C library's realloc"),
    Allow(SYS_madvise, "the C library's free, regions"),
    Allow(SYS_brk, "the C library's heap"),
    Allow(SYS_memfd_create, "tmpfs, shared memory, regions"),
    Allow(SYS_membarrier, "ordering with guests on other processors"),
    # Events and time.
    Allow(SYS_epoll_create1, "the event loop"),
    Allow(SYS_epoll_ctl, "the event loop"),
    Allow(SYS_ppoll, "readiness of host descriptors"),
    Allow(SYS_pselect6, "the interpreter's sleep"),
    Allow(SYS_eventfd2, "wake-ups"),
    Allow(SYS_signalfd4, "signals to the sentry"),
    Allow(SYS_timerfd_create, "timers"),
    Allow(SYS_timerfd_settime, "timers"),
    Allow(SYS_pipe2, "buffers of splice"),
    Allow(SYS_clock_gettime, "where the vDSO has no clock; CPU time of guests"),
    Allow(SYS_clock_getres, "clock_getres of guests"),
    Allow(SYS_clock_nanosleep, "the interpreter's sleep"),
    Allow(SYS_nanosleep, "back-off"),
    Allow(SYS_restart_syscall, "continuing after SIGSTOP and SIGCONT"),
    # Guest processes.
    Allow(SYS_kill, "ending guest processes (its own children; a pid namespace hides others)"),
    Allow(SYS_tgkill, "interrupting guest threads"),
    Allow(SYS_pidfd_send_signal, "ending guest processes"),
    Allow(SYS_wait4, "reaping guest processes, CPU time"),
    Allow(SYS_waitid, "reaping guest processes"),
    Allow(SYS_setpgid, "adopting a forked guest process"),
    Allow(SYS_getpgid, "proving a forked guest process"),
    # The interpreter and the C library.
    Allow(SYS_rt_sigaction, "signal set-up"),
    Allow(SYS_rt_sigprocmask, "signal set-up"),
    Allow(SYS_rt_sigreturn, "returning from a signal"),
    Allow(SYS_rt_sigtimedwait, "taking a signal"),
    Allow(SYS_sigaltstack, "faulthandler"),
    Allow(SYS_getrandom, "getrandom and /dev/urandom of guests, AT_RANDOM"),
    Allow(SYS_sched_yield, "spinning"),
    Allow(SYS_sched_getaffinity, "the number of processors"),
    Allow(SYS_sched_setaffinity, "leaving the processor on which a guest wants to run", [int_is(0, 0)]),
    Allow(SYS_getpid, "itself"),
    Allow(SYS_gettid, "itself"),
    Allow(SYS_getppid, "noticing an orphaned sandbox"),
    Allow(SYS_getuid, "itself"),
    Allow(SYS_geteuid, "itself"),
    Allow(SYS_getgid, "itself"),
    Allow(SYS_getegid, "itself"),
    Allow(SYS_getrusage, "its own CPU time and memory"),
    Allow(SYS_prlimit64, "reading its own limits", [int_is(0, 0), is_null(2)]),
    Allow(SYS_sysinfo, "total memory, load"),
    Allow(SYS_uname, "platform checks of the interpreter"),
    Allow(SYS_exit, "the end"),
    Allow(SYS_exit_group, "the end"),
]

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
]


def sentry_policy(proc_fd: int = -1, extra: list[Allow] | None = None) -> Policy:
    """The allow-list of the sentry.

    `proc_fd` is a directory descriptor of a procfs, below which files may be opened for reading (proofs of
    adoption, memory of guests); -1 for none.  An absolute path would ignore it, so this relies on the empty
    root as well. `extra` is what the platform in use needs beyond this (KVM's ioctls).
    """
    allowed = list(_ALLOWED)
    if proc_fd >= 0:
        checks = [int_is(0, proc_fd), int_has_none(2, _O_WRITE_BITS)]
        allowed.append(Allow(SYS_openat, "files of guest processes in /proc", checks))
    if extra is not None:
        allowed.extend(extra)
    return Policy("sentry", allowed, _REFUSED)
