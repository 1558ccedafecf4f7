"""The caller's side of the template (`cli.template`): finding it, starting it, knowing that it is the right one.

    ROOT/.template-KEY    its socket, in the directory of the records (`runtime.records`)

A sandbox that the template makes runs where that runs: in its namespaces, control group and limits.  A caller with
others needs another template, so they are what KEY is made of.  Whoever finds no template makes the socket itself and
gives it to the new process, so there is never a moment at which somebody has to look again: who connects while the
template is imported waits, and if it dies instead, the connection ends.  `connect` gives None where anything is not as
it should be, and the caller starts its sandbox without a template.
"""

import errno
import fcntl
import os
import resource
import socket
import stat
import struct
import sys
from _blake2 import blake2b  # hashlib brings OpenSSL
from collections.abc import Callable
from typing import Final

from cloche.runtime.root import RecordError, default_root, open_directory, prepared_root

READY: Final = b"\x01"  # the first byte that a fork of the template says, before it has read anything
LEND: Final = "lend"  # a request to such a fork: the caller is its own monitor, and wants a keeper only
SETTING: Final = "CLOCHE_TEMPLATE"  # "0": none; "1": also for `cloche run`
_BACKLOG: Final = 4096
_PEER: Final = struct.Struct("3i")  # struct ucred
# Of /proc/self/status: who the caller is and what it may do, what it is confined by, where it may run.
_STATUS: Final = (b"Umask", b"Uid", b"Gid", b"Groups", b"Cap", b"NoNewPrivs", b"Seccomp", b"Cpus_", b"Mems_")
_FILES: Final = ("cgroup", "oom_score_adj", "personality", "attr/current")
_LIMITS: Final = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))


def connect(spawn: Callable[[socket.socket, str], int]) -> tuple[socket.socket, int] | None:
    """A connection to this caller's template, and the pid of a child to wait for if `spawn` had to start it, else 0.

    The fork that answers says READY first; until then nobody has read what the caller sent.
    """
    try:
        root = os.path.abspath(default_root())
        directory = prepared_root(root)
    except (OSError, RecordError):
        return None
    try:
        name = f".template-{_key()}"
        sock = _dial(directory, name)
        if sock is not None:
            return sock, 0
        return _start(root, directory, name, spawn)
    except OSError:
        return None
    finally:
        os.close(directory)


def _path(directory: int, name: str) -> str:
    """Short enough for the name of a socket, whatever the directory's is."""
    return f"/proc/self/fd/{directory}/{name}"


def _dial(directory: int, name: str) -> socket.socket | None:
    """A connection, or None if nobody listens.  Raises OSError."""
    try:
        if not stat.S_ISSOCK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise OSError(errno.ENOTSOCK, name)
    except FileNotFoundError:
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)  # a template with so many waiting is of no use
    try:
        sock.connect(_path(directory, name))
        _pid, uid, _gid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid != os.geteuid():
            raise PermissionError(errno.EPERM, name)
    except (ConnectionRefusedError, FileNotFoundError):
        sock.close()
        return None
    except OSError:
        sock.close()
        raise
    return sock


def _start(
    root: str, directory: int, name: str, spawn: Callable[[socket.socket, str], int]
) -> tuple[socket.socket, int]:
    """Start the template, unless somebody else has meanwhile.  Raises OSError."""
    guard = _lock(directory)
    try:
        sock = _dial(directory, name)
        if sock is not None:
            return sock, 0
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(_path(directory, name))  # its directory lets nobody else in
            listener.listen(_BACKLOG)
            pid = spawn(listener, os.path.join(root, name))
            sock = _dial(directory, name)
        if sock is None:
            raise OSError(errno.ECONNREFUSED, name)
        return sock, pid
    finally:
        os.close(guard)


def _lock(directory: int) -> int:
    """Only one at a time makes the socket or removes it.  Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(".template-lock", flags, 0o600, dir_fd=directory)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


class Place:
    """Where the template's socket is, as that itself knows it."""

    def __init__(self, path: str) -> None:
        self.root, _slash, self.name = path.rpartition("/")
        st = os.stat(path, follow_symlinks=False)
        self.identity: tuple[int, int] = (st.st_dev, st.st_ino)

    def remove(self) -> None:
        """Nobody is to find it any more.  Nothing is raised."""
        try:
            directory = open_directory(self.root)
        except (OSError, RecordError):
            return
        guard = -1
        try:
            guard = _lock(directory)
            st = os.stat(self.name, dir_fd=directory, follow_symlinks=False)
            if (st.st_dev, st.st_ino) == self.identity:
                os.unlink(self.name, dir_fd=directory)
        except OSError:
            pass
        finally:
            for fd in (guard, directory):
                if fd >= 0:
                    os.close(fd)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(65536)
    except OSError:
        return b""


def _key() -> str:
    """What the caller is, where it stands and which cloche it has, in short.  Raises OSError."""
    parts: list[object] = [sys.executable, os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    for place in ("/", str(parts[0]), str(parts[1])):
        st = os.stat(place)
        parts.append((st.st_dev, st.st_ino))
    parts += [(name, os.readlink(f"/proc/self/ns/{name}")) for name in sorted(os.listdir("/proc/self/ns"))]
    parts += [_read(f"/proc/self/{name}") for name in _FILES]
    parts += [line for line in _read("/proc/self/status").split(b"\n") if line.startswith(_STATUS)]
    parts += [resource.getrlimit(limit) for limit in _LIMITS]
    parts += [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)]
    digest: str = blake2b(repr(parts).encode(), digest_size=12).hexdigest()
    return digest
