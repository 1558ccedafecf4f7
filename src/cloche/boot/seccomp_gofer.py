"""The gofer's seccomp allow-list, as data.

Not on it, on purpose: execve, clone, ptrace, process_vm_*, mount, chroot, setuid and its kin, kill, bpf, io_uring,
mknod of devices, any open for writing unless an attach point is writable; socket and bind unless Unix sockets of a
volume are the host's, and connect unless its operator has asked for that.
"""

from typing import Final

from cloche.abi.fcntl import (
    F_DUPFD_CLOEXEC,
    F_GETFD,
    F_GETFL,
    F_RDLCK,
    F_SETFD,
    F_SETLEASE,
    F_UNLCK,
    FD_CLOEXEC,
)
from cloche.abi.socket import AF_UNIX, SO_PEERCRED, SOL_SOCKET
from cloche.abi.stat import S_IFCHR
from cloche.arch.syscalls import (
    SYS_bind,
    SYS_chmod,
    SYS_chown,
    SYS_close,
    SYS_connect,
    SYS_fallocate,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchmodat2,
    SYS_fchown,
    SYS_fchownat,
    SYS_fcntl,
    SYS_fdatasync,
    SYS_fstat,
    SYS_fstatfs,
    SYS_fsync,
    SYS_ftruncate,
    SYS_getdents64,
    SYS_geteuid,
    SYS_getsockopt,
    SYS_getxattr,
    SYS_inotify_add_watch,
    SYS_inotify_init1,
    SYS_inotify_rm_watch,
    SYS_linkat,
    SYS_listen,
    SYS_listxattr,
    SYS_lseek,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_newfstatat,
    SYS_openat,
    SYS_openat2,
    SYS_poll,
    SYS_pread64,
    SYS_pwritev2,
    SYS_readlinkat,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_removexattr,
    SYS_renameat2,
    SYS_sendmsg,
    SYS_sendto,
    SYS_setxattr,
    SYS_socket,
    SYS_symlinkat,
    SYS_syncfs,
    SYS_unlinkat,
    SYS_utimensat,
    SYS_wait4,
    SYS_write,
)
from cloche.boot import seccomp_interpreter as interpreter
from cloche.boot.seccomp import Allow, Policy, Refuse, int_has_none, int_is, is_null

_O_WRITE_BITS: Final = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000  # WRONLY RDWR CREAT TRUNC __O_TMPFILE

_ALWAYS: Final[list[Allow]] = [
    Allow(SYS_recvfrom, "requests of the sentry"),
    Allow(SYS_sendto, "replies; never to an address", [is_null(4)]),
    Allow(SYS_sendmsg, "replies that carry a descriptor"),
    Allow(SYS_pread64, "whether a file is a program; reads of what is not in memory"),
    Allow(SYS_recvmsg, "the analyst's answers and their descriptors"),
    Allow(SYS_poll, "waiting for the analyst, but not for ever"),
    Allow(SYS_newfstatat, "attributes of names below directory descriptors"),
    Allow(SYS_fstat, "attributes of descriptors"),
    Allow(SYS_readlinkat, "targets of symbolic links"),
    Allow(SYS_getdents64, "listing directories"),
    Allow(SYS_openat, "opening for reading, one component at a time", [int_has_none(2, _O_WRITE_BITS)]),
    Allow(SYS_openat2, "opening an evicted directory again: RESOLVE_BENEATH"),
    Allow(SYS_close, "descriptors that were donated or evicted"),
    Allow(SYS_fcntl, "os.dup and scandir duplicate descriptors", [int_is(1, F_DUPFD_CLOEXEC)]),
    Allow(SYS_fcntl, "fdopendir looks how a descriptor was opened", [int_is(1, F_GETFL)]),
    Allow(SYS_fcntl, "fdopendir sets close-on-exec", [int_is(1, F_SETFD), int_is(2, FD_CLOEXEC)]),
    Allow(SYS_fcntl, "whether a descriptor is closed by exec", [int_is(1, F_GETFD)]),
    Allow(SYS_fcntl, "who has a program open for writing", [int_is(1, F_SETLEASE), int_is(2, F_RDLCK)]),
    Allow(SYS_fcntl, "the end of that lease", [int_is(1, F_SETLEASE), int_is(2, F_UNLCK)]),
    Allow(SYS_lseek, "rewinddir in the C library"),
    Allow(SYS_fstatfs, "statfs, and recognising kernel file systems"),
    Allow(SYS_fsync, "fsync"),
    Allow(SYS_fdatasync, "fdatasync"),
    Allow(SYS_getxattr, "extended attributes, by magic link of a descriptor"),
    Allow(SYS_listxattr, "extended attributes, by magic link of a descriptor"),
    Allow(SYS_inotify_init1, "names of directories that others change, too"),
    Allow(SYS_inotify_add_watch, "watching such a directory, by magic link of a descriptor"),
    Allow(SYS_inotify_rm_watch, "watching it no longer"),
    *interpreter.ALLOWED,
    Allow(SYS_write, "messages on standard error"),
    Allow(SYS_geteuid, "whether a chown may be expected to work"),
    Allow(SYS_wait4, "which of its workers has ended"),
]

# Only with a writable attach point.
_WRITING: Final[list[Allow]] = [
    Allow(SYS_openat, "creating files, opening for writing"),
    Allow(SYS_mkdirat, "mkdir"),
    Allow(SYS_mknodat, "FIFOs and sockets; never devices", [int_has_none(2, S_IFCHR)]),
    Allow(SYS_symlinkat, "symlink"),
    Allow(SYS_linkat, "link"),
    Allow(SYS_unlinkat, "unlink and rmdir"),
    Allow(SYS_renameat2, "rename"),
    Allow(SYS_ftruncate, "truncate"),
    Allow(SYS_pwritev2, "writes to storage that may hang"),
    Allow(SYS_fallocate, "fallocate there"),
    Allow(SYS_syncfs, "syncfs"),
    Allow(SYS_fchmod, "set-id and sticky bits of new files"),
    Allow(SYS_chmod, "chmod, by magic link of a descriptor"),
    Allow(SYS_fchmodat, "chmod, by magic link of a descriptor"),
    Allow(SYS_fchmodat2, "chmod on new C libraries"),
    Allow(SYS_fchown, "the owner of new files"),
    Allow(SYS_chown, "chown, by magic link of a descriptor"),
    Allow(SYS_fchownat, "the owner of new directories and links"),
    Allow(SYS_utimensat, "utimensat"),
    Allow(SYS_setxattr, "extended attributes, by magic link of a descriptor"),
    Allow(SYS_removexattr, "extended attributes, by magic link of a descriptor"),
]

# Only with a volume in which programs may bind Unix sockets.
_DOORS: Final[list[Allow]] = [
    Allow(SYS_bind, "Unix sockets that programs bind in a volume"),
    Allow(SYS_listen, "the same; then they are given away"),
]

# Only with a volume whose sockets of the host's programs may use.
_DIALS: Final[list[Allow]] = [
    Allow(SYS_connect, "sockets of the host in a volume, by magic link of a descriptor"),
    Allow(SYS_getsockopt, "who the server is", [int_is(1, SOL_SOCKET), int_is(2, SO_PEERCRED)]),
]

_SOCKET: Final = Allow(SYS_socket, "Unix sockets in a volume", [int_is(0, AF_UNIX)])

_REFUSED: Final[list[Refuse]] = [
    *interpreter.REFUSED,
]


def gofer_policy(*, is_writable: bool, has_doors: bool = False, shows_sockets: bool = False) -> Policy:
    """The allow-list of a gofer with, or without, a writable attach point; one in which Unix sockets are bound; one
    whose sockets of the host's are connected to.
    """
    allowed = list(_ALWAYS)
    if is_writable:
        allowed += _WRITING
    if has_doors or shows_sockets:
        allowed.append(_SOCKET)
    if has_doors:
        allowed += _DOORS
    if shows_sockets:
        allowed += _DIALS
    return Policy("gofer", allowed, _REFUSED)
