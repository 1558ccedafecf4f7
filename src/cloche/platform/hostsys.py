"""Host system calls that the standard library lacks, typed.

Owns nothing; each function is one system call of the *host* (never of a guest) and raises OSError.  Used by
the processes that confine themselves (sentry, gofer, egress) and by the gofer's file service.  Nothing here
may be given a value that came from a guest without validation.
"""

import errno
import os
import struct
from typing import Final

from cloche.platform import _sys

_CAPABILITY_HEADER: Final = struct.pack("<Ii", 0x20080522, 0)  # version 3, this thread
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
    """Let `reopen_readonly` use this directory descriptor of a procfs that counts processes as we do; -1: none."""
    _proc.fd = fd


def reopen_readonly(fd: int) -> int:
    """A descriptor of the same file that is open only for reading.  Raises OSError, also where there is no procfs."""
    if _proc.fd < 0:
        raise OSError(errno.ENOENT, "no procfs")
    return os.open(f"self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=_proc.fd)


def prctl(option: int, a2: int = 0, a3: int = 0, a4: int = 0, a5: int = 0) -> int:
    """prctl(2) with scalar arguments."""
    return _sys.prctl(option, a2, a3, a4, a5)


def seccomp_filter(code: bytes, flags: int = 0) -> int:
    """Install a classic BPF program (seccomp(2), SECCOMP_SET_MODE_FILTER); needs no_new_privs or
    CAP_SYS_ADMIN.

    `code` is an array of struct sock_filter.  Returns a listener descriptor with
    SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0.
    """
    # 1: SECCOMP_SET_MODE_FILTER
    return _sys.seccomp_filter(1, flags, code)


def capget() -> tuple[int, int, int]:
    """Effective, permitted and inheritable capabilities of this thread as bit masks."""
    data = bytearray(24)
    _sys.capget(bytearray(_CAPABILITY_HEADER), data)
    low = struct.unpack("<6I", data)
    return low[0] | low[3] << 32, low[1] | low[4] << 32, low[2] | low[5] << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the capability sets of this thread (capset(2))."""
    sets = (effective, permitted, inheritable)
    words = [word >> shift & 0xFFFFFFFF for shift in (0, 32) for word in sets]
    _sys.capset(_CAPABILITY_HEADER, struct.pack("<6I", *words))


def unshare(flags: int) -> None:
    """unshare(2): CLONE_NEW* of this (single-threaded) process."""
    _sys.unshare(flags)


def setns(fd: int, kind: int) -> None:
    """setns(2): join the namespace that `fd` refers to."""
    _sys.setns(fd, kind)


def setfsuid(uid: int) -> None:
    """setfsuid(2): whose the files and sockets are that this thread makes; other rights stay."""
    # It reports no error; the second call tells what the user is now.
    _sys.setfsuid(uid)
    if _sys.setfsuid(uid) != uid:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes = b"") -> None:
    """mount(2)."""
    _sys.mount(source, target, kind, flags, data)


def umount2(target: bytes, flags: int) -> None:
    """umount2(2)."""
    _sys.umount2(target, flags)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """pivot_root(2)."""
    _sys.pivot_root(new_root, put_old)


def protocol_chooser() -> int:
    """The address of a function for SSL_CTX_set_alpn_select_cb(3); its argument is the one protocol that it chooses."""
    return _sys.protocol_chooser


def openat2(dirfd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    """openat2(2) with RESOLVE_* flags (Linux 5.6; OSError(ENOSYS) before)."""
    return _sys.openat2(dirfd, path, _OPEN_HOW.pack(flags, mode, resolve))


def close_range(first: int, last: int, flags: int = 0) -> None:
    """Close (or mark CLOEXEC) every descriptor from `first` to `last` (Linux 5.9)."""
    _sys.close_range(first, last, flags)


def renameat2(from_fd: int, source: bytes, to_fd: int, target: bytes, flags: int) -> None:
    """renameat2(2) with RENAME_* flags; symbolic links are not followed."""
    _sys.renameat2(from_fd, source, to_fd, target, flags)


def fchmodat2(dirfd: int, path: bytes, mode: int, flags: int) -> None:
    """fchmodat2(2) (Linux 6.6), which has AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH."""
    _sys.fchmodat2(dirfd, path, mode, flags)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with FALLOC_FL_* flags; offset and length in bytes."""
    _sys.fallocate(fd, mode, offset, length)


def utimensat(dirfd: int, path: bytes, atime: tuple[int, int], mtime: tuple[int, int], flags: int) -> None:
    """utimensat(2) with (seconds, nanoseconds); UTIME_NOW and UTIME_OMIT may stand for nanoseconds."""
    _sys.utimensat(dirfd, path, struct.pack("<4q", *atime, *mtime), flags)


def fstatfs(fd: int) -> HostStatFs:
    """fstatfs(2), the magic number included (os.fstatvfs lacks it); `fd` may be an O_PATH descriptor."""
    data = bytearray(120)  # struct statfs
    _sys.fstatfs(fd, data)
    magic, block, blocks, free, available, files, files_free, _id, name_max, _frsize, flags = (
        struct.unpack_from("<2q5Q4q", data)
    )
    return HostStatFs(
        (magic & 0xFFFFFFFF, block, blocks, free, available, files, files_free, name_max, flags)
    )


def syncfs(fd: int) -> None:
    """syncfs(2): the file system of `fd`, which must not be O_PATH."""
    _sys.syncfs(fd)


def landlock_abi() -> int:
    """The Landlock ABI version of the host's kernel; OSError(ENOSYS or EOPNOTSUPP) if there is none."""
    # 1: LANDLOCK_CREATE_RULESET_VERSION
    return _sys.landlock_abi(0, 0, 1)


def landlock_create_ruleset(fs: int, net: int, scoped: int, size: int) -> int:
    """A ruleset descriptor that handles these accesses; `size` in bytes as the ABI allows (8, 16 from 4, 24
    from 6)."""
    return _sys.landlock_create_ruleset(struct.pack("<3Q", fs, net, scoped)[:size], 0)


def landlock_add_path(ruleset: int, fd: int, allowed: int) -> None:
    """Allow accesses beneath the directory `fd`."""
    # 1: LANDLOCK_RULE_PATH_BENEATH
    _sys.landlock_add_rule(ruleset, 1, struct.pack("<Qi", allowed, fd), 0)


def landlock_restrict_self(ruleset: int) -> None:
    """Enforce a ruleset on this thread, for ever (needs no_new_privs)."""
    _sys.landlock_restrict_self(ruleset, 0)
