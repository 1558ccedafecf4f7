"""Host system calls that the standard library lacks, typed.

Owns nothing; each function is one system call of the *host* (never of a guest) and raises OSError.  Used by
the processes that confine themselves (sentry, gofer, egress) and by the gofer's file service.  Nothing here
may be given a value that came from a guest without validation.

`_sys.call` makes any system call, and does not check that a buffer is as large as the host expects. So it is called
only here, with structs that are packed here, and `_sys` is imported nowhere else.
"""

import errno
import os
import struct
from typing import Final

from cloche.abi.fs import MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH
from cloche.abi.mman import MADV_DONTNEED, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from cloche.abi.prctl import ARCH_GET_FS
from cloche.arch.syscalls import (
    SYS_arch_prctl,
    SYS_capget,
    SYS_capset,
    SYS_close_range,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_fallocate,
    SYS_fchmodat2,
    SYS_fstatfs,
    SYS_inotify_add_watch,
    SYS_inotify_init1,
    SYS_inotify_rm_watch,
    SYS_landlock_add_rule,
    SYS_landlock_create_ruleset,
    SYS_landlock_restrict_self,
    SYS_madvise,
    SYS_membarrier,
    SYS_mmap,
    SYS_mount,
    SYS_mount_setattr,
    SYS_move_mount,
    SYS_open_tree,
    SYS_openat2,
    SYS_pivot_root,
    SYS_prctl,
    SYS_process_vm_readv,
    SYS_pwrite64,
    SYS_renameat2,
    SYS_seccomp,
    SYS_setfsuid,
    SYS_setns,
    SYS_signalfd4,
    SYS_syncfs,
    SYS_umount2,
    SYS_unshare,
    SYS_utimensat,
)
from cloche.platform import _sys

_address: Final = _sys.address  # bound once, because looking up a function of an extension module is slow
_CAPABILITY_HEADER: Final = struct.pack("<Ii", 0x20080522, 0)  # version 3, this thread
_MOUNT_ATTR: Final = struct.Struct("<4Q")  # mount_setattr(2)
_OPEN_HOW: Final = struct.Struct("<3Q")  # openat2(2)


class HostStatFs:
    """statfs(2) figures of a host file system."""

    def __init__(self, row: tuple[int, ...]) -> None:
        self.magic: int = row[0]
        self.block_size: int = row[1]
        self.blocks: int = row[2]
        self.blocks_free: int = row[3]
        self.blocks_avail: int = row[4]
        self.files: int = row[5]
        self.files_free: int = row[6]
        self.name_max: int = row[7]
        self.flags: int = row[8]


class _Proc:
    fd: int = -1


_proc: Final = _Proc()


def use_proc(fd: int) -> None:
    """Let `reopen_readonly` use this directory descriptor of a procfs of this process's pid namespace; -1: none."""
    _proc.fd = fd


def reopen_readonly(fd: int) -> int:
    """A descriptor of the same file that is open only for reading.  Raises OSError, also where there is no procfs."""
    if _proc.fd < 0:
        raise OSError(errno.ENOENT, "no procfs")
    return os.open(f"self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=_proc.fd)


def _path(path: bytes) -> bytes:
    """Check that a path contains no NUL, at which the host would stop reading. Raises ValueError."""
    if 0 in path:
        raise ValueError("embedded null byte")
    return path


def prctl(option: int, a2: int = 0, a3: int = 0, a4: int = 0, a5: int = 0) -> int:
    """prctl(2) with scalar arguments."""
    return _sys.call(SYS_prctl, option, a2, a3, a4, a5)


def seccomp_filter(code: bytes, flags: int = 0) -> int:
    """Install a classic BPF program (seccomp(2), SECCOMP_SET_MODE_FILTER); needs no_new_privs or
    CAP_SYS_ADMIN.

    `code` is an array of struct sock_filter.  Returns a listener descriptor with
    SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0.
    """
    steps, rest = divmod(len(code), 8)
    if rest or steps > 4096:  # BPF_MAXINSNS
        raise ValueError("not a whole number of BPF instructions, or too many")
    # 1: SECCOMP_SET_MODE_FILTER
    return _sys.call(SYS_seccomp, 1, flags, struct.pack("<H6xQ", steps, _sys.address(code)))


def probe_memory(pid: int, addr: int) -> None:
    """Check that the memory of a guest process can be read at an address. Raises OSError if not."""
    word = bytes(8)
    ours, theirs = struct.pack("<QQ", _sys.address(word), 8), struct.pack("<QQ", addr, 8)
    _sys.call(SYS_process_vm_readv, pid, ours, 1, theirs, 1, 0)
    assert len(word) == 8  # keeps the buffer alive until here


def address(data: bytes | bytearray) -> int:
    """The address of bytes, for a struct that points to them; the caller keeps them alive until the call is over."""
    return _address(data)


def capget() -> tuple[int, int, int]:
    """Effective, permitted and inheritable capabilities of this thread as bit masks."""
    data = bytearray(24)
    _sys.call(SYS_capget, bytearray(_CAPABILITY_HEADER), data)
    low = struct.unpack("<6I", data)
    return low[0] | low[3] << 32, low[1] | low[4] << 32, low[2] | low[5] << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the capability sets of this thread (capset(2))."""
    sets = (effective, permitted, inheritable)
    words = [word >> shift & 0xFFFFFFFF for shift in (0, 32) for word in sets]
    _sys.call(SYS_capset, _CAPABILITY_HEADER, struct.pack("<6I", *words))


def write_memory(fd: int, addr: int, length: int, offset: int) -> None:
    """Write this process's own memory to a file, by pwrite(2)."""
    if _sys.call(SYS_pwrite64, fd, addr, length, offset) != length:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def map_to_read(fd: int, length: int) -> int:
    """Map a file from its beginning, to read it; the address."""
    return _sys.call(SYS_mmap, 0, length, PROT_READ, MAP_SHARED, fd, 0)


def map_over_same(addr: int, twin: int, length: int, fd: int, offset: int) -> bool:
    """Replace this process's own memory by a private mapping of a file, which `twin` is the memory of, if nothing has
    changed: then the process does not notice.
    """
    flags, rights = MAP_PRIVATE | MAP_FIXED, PROT_READ | PROT_WRITE
    return (
        _sys.call_if_same(addr, twin, length, SYS_mmap, addr, length, rights, flags, fd, offset) is not None
    )


def drop_if_same(addr: int, twin: int, length: int) -> bool:
    """Drop pages of a private mapping of a file that are as the file's, which `twin` is the memory of."""
    return _sys.call_if_same(addr, twin, length, SYS_madvise, addr, length, MADV_DONTNEED) is not None


def thread_pointer() -> int:
    """The address of this thread's control block."""
    found = bytearray(8)
    _sys.call(SYS_arch_prctl, ARCH_GET_FS, found)
    return int.from_bytes(found, "little")


def unshare(flags: int) -> None:
    """unshare(2): CLONE_NEW* of this (single-threaded) process."""
    _sys.call(SYS_unshare, flags)


def setns(fd: int, kind: int) -> None:
    """setns(2): join the namespace that `fd` refers to."""
    _sys.call(SYS_setns, fd, kind)


def setfsuid(uid: int) -> None:
    """setfsuid(2): the owner of files and sockets that this thread makes; its other rights stay."""
    # It reports no error; the second call returns the present user.
    _sys.call(SYS_setfsuid, uid)
    if _sys.call(SYS_setfsuid, uid) != uid:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes = b"") -> None:
    """mount(2)."""
    _sys.call(SYS_mount, _path(source), _path(target), _path(kind), flags, _path(data))


def umount2(target: bytes, flags: int) -> None:
    """umount2(2)."""
    _sys.call(SYS_umount2, _path(target), flags)


def open_tree(dirfd: int, path: bytes, flags: int) -> int:
    """open_tree(2) (Linux 5.2)."""
    return _sys.call(SYS_open_tree, dirfd, _path(path), flags)


def move_mount(fd: int, place: int) -> None:
    """move_mount(2): attach a mount that `open_tree` has copied at the directory or file of `place` (Linux 5.2)."""
    empty = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _sys.call(SYS_move_mount, fd, b"", place, b"", empty)


def mount_setattr(fd: int, flags: int, attributes: int, propagation: int, user_ns: int) -> None:
    """mount_setattr(2) of the mount that `fd` refers to, with AT_* flags (Linux 5.12)."""
    attr = _MOUNT_ATTR.pack(attributes, 0, propagation, user_ns)
    _sys.call(SYS_mount_setattr, fd, b"", flags, attr, len(attr))


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """pivot_root(2)."""
    _sys.call(SYS_pivot_root, _path(new_root), _path(put_old))


def protocol_chooser() -> int:
    """The address of a function for SSL_CTX_set_alpn_select_cb(3); its argument is the one protocol that it chooses."""
    return _sys.protocol_chooser


def openat2(dirfd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    """openat2(2) with RESOLVE_* flags (Linux 5.6; OSError(ENOSYS) before)."""
    how = _OPEN_HOW.pack(flags, mode, resolve)
    return _sys.call(SYS_openat2, dirfd, _path(path), how, len(how))


def close_range(first: int, last: int, flags: int = 0) -> None:
    """Close (or mark CLOEXEC) every descriptor from `first` to `last` (Linux 5.9)."""
    _sys.call(SYS_close_range, first, last, flags)


def renameat2(from_fd: int, source: bytes, to_fd: int, target: bytes, flags: int) -> None:
    """renameat2(2) with RENAME_* flags; symbolic links are not followed."""
    _sys.call(SYS_renameat2, from_fd, _path(source), to_fd, _path(target), flags)


def fchmodat2(dirfd: int, path: bytes, mode: int, flags: int) -> None:
    """fchmodat2(2) (Linux 6.6), which has AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH."""
    _sys.call(SYS_fchmodat2, dirfd, _path(path), mode, flags)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with FALLOC_FL_* flags; offset and length in bytes."""
    _sys.call(SYS_fallocate, fd, mode, offset, length)


def utimensat(dirfd: int, path: bytes, atime: tuple[int, int], mtime: tuple[int, int], flags: int) -> None:
    """utimensat(2) with (seconds, nanoseconds); UTIME_NOW and UTIME_OMIT may stand for nanoseconds."""
    times = struct.pack("<4q", *atime, *mtime)
    _sys.call(SYS_utimensat, dirfd, _path(path), times, flags)


def fstatfs(fd: int) -> HostStatFs:
    """fstatfs(2), the magic number included (os.fstatvfs lacks it); `fd` may be an O_PATH descriptor."""
    data = bytearray(120)  # struct statfs
    _sys.call(SYS_fstatfs, fd, data)
    magic, block, blocks, free, available, files, files_free, _id, name_max, _frsize, flags = (
        struct.unpack_from("<2q5Q4q", data)
    )
    return HostStatFs(
        (magic & 0xFFFFFFFF, block, blocks, free, available, files, files_free, name_max, flags)
    )


def syncfs(fd: int) -> None:
    """syncfs(2): the file system of `fd`, which must not be O_PATH."""
    _sys.call(SYS_syncfs, fd)


def epoll_create() -> int:
    """epoll_create1(2): a descriptor."""
    return _sys.call(SYS_epoll_create1, os.O_CLOEXEC)


def epoll_ctl(epoll: int, operation: int, fd: int, event: bytes) -> None:
    """epoll_ctl(2) with EPOLL_CTL_* and a struct epoll_event."""
    _sys.call(SYS_epoll_ctl, epoll, operation, fd, event)


def signalfd(signo: int) -> int:
    """signalfd(2): a descriptor that does not block, of one signal, which the caller has blocked."""
    mask = struct.pack("<Q", 1 << signo - 1)
    return _sys.call(SYS_signalfd4, -1, mask, len(mask), os.O_NONBLOCK | os.O_CLOEXEC)


def inotify_init() -> int:
    """inotify_init1(2): a descriptor that does not block."""
    return _sys.call(SYS_inotify_init1, os.O_NONBLOCK | os.O_CLOEXEC)


def inotify_add_watch(fd: int, path: bytes, mask: int) -> int:
    """inotify_add_watch(2): the number of the watch."""
    return _sys.call(SYS_inotify_add_watch, fd, _path(path), mask)


def inotify_rm_watch(fd: int, watch: int) -> None:
    """inotify_rm_watch(2)."""
    _sys.call(SYS_inotify_rm_watch, fd, watch)


def membarrier(command: int) -> bool:
    """membarrier(2) with MEMBARRIER_CMD_*; False if the host cannot."""
    try:
        _sys.call(SYS_membarrier, command, 0, 0)
    except OSError:
        return False
    return True


def landlock_abi() -> int:
    """The Landlock ABI version of the host's kernel; OSError(ENOSYS or EOPNOTSUPP) if there is none."""
    # 1: LANDLOCK_CREATE_RULESET_VERSION
    return _sys.call(SYS_landlock_create_ruleset, 0, 0, 1)


def landlock_create_ruleset(fs: int, net: int, scoped: int, size: int) -> int:
    """A ruleset descriptor that handles these accesses; `size` in bytes as the ABI allows (8, 16 from 4, 24
    from 6)."""
    attributes = struct.pack("<3Q", fs, net, scoped)[:size]
    return _sys.call(SYS_landlock_create_ruleset, attributes, len(attributes), 0)


def landlock_add_path(ruleset: int, fd: int, allowed: int) -> None:
    """Allow accesses beneath the directory `fd`."""
    # 1: LANDLOCK_RULE_PATH_BENEATH
    _sys.call(SYS_landlock_add_rule, ruleset, 1, struct.pack("<Qi", allowed, fd), 0)


def landlock_restrict_self(ruleset: int) -> None:
    """Enforce a ruleset on this thread, for ever (needs no_new_privs)."""
    _sys.call(SYS_landlock_restrict_self, ruleset, 0)
