"""The caller's side of the template (`cli.template`): finding it, starting it, and checking that it is the right one.

    ROOT/.template-KEY    its socket, in the directory of the records (`runtime.records`)

A sandbox that the template forks runs in the template's namespaces, control group and limits. A caller in other ones
needs another template, so KEY is a hash of these. A caller that finds no template makes the socket itself and gives
it to the new process, so nobody has to poll: a client that connects while the template still imports its modules
waits, and if the template dies, the connection ends. `connect` returns None if anything is not as it should be; the
caller then starts its sandbox without a template.
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

READY: Final = b"\x01"  # the first byte that a fork of the template sends, before it has read anything
LEND: Final = "lend"  # a request to such a fork: the caller is a monitor itself, and only wants a keeper
SETTING: Final = "CLOCHE_TEMPLATE"  # "0": none; "1": also for `cloche run`
_BACKLOG: Final = 4096
_PEER: Final = struct.Struct("3i")  # struct ucred
# Lines of /proc/self/status: the caller's ids and rights, its confinement, its processors.
_STATUS: Final = (b"Umask", b"Uid", b"Gid", b"Groups", b"Cap", b"NoNewPrivs", b"Seccomp", b"Cpus_", b"Mems_")
_FILES: Final = ("cgroup", "oom_score_adj", "personality", "attr/current")
_LIMITS: Final = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))


def connect(spawn: Callable[[socket.socket, str], int]) -> tuple[socket.socket, int] | None:
    """A connection to this caller's template, and the pid of a child to wait for if `spawn` had to start it, else 0.

    The fork that answers says READY first; until then no process has read the caller's request.
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
    """A path for a socket name, which is short however long the directory's path is."""
    return f"/proc/self/fd/{directory}/{name}"


def _dial(directory: int, name: str) -> socket.socket | None:
    """Connect; None if no process listens. Raises OSError."""
    try:
        if not stat.S_ISSOCK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise OSError(errno.ENOTSOCK, name)
    except FileNotFoundError:
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)  # do not wait for a template whose backlog is full
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
    """Start the template, unless another process has started it meanwhile. Raises OSError."""
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
            listener.bind(_path(directory, name))  # only this user can enter its directory
            listener.listen(_BACKLOG)
            pid = spawn(listener, os.path.join(root, name))
            sock = _dial(directory, name)
        if sock is None:
            raise OSError(errno.ECONNREFUSED, name)
        return sock, pid
    finally:
        os.close(guard)


def _lock(directory: int) -> int:
    """Take the lock under which the socket is made and removed. Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(".template-lock", flags, 0o600, dir_fd=directory)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


class Place:
    """The place of the template's socket, as the template itself keeps it."""

    def __init__(self, path: str) -> None:
        self.root, _slash, self.name = path.rpartition("/")
        st = os.stat(path, follow_symlinks=False)
        self.identity: tuple[int, int] = (st.st_dev, st.st_ino)

    def remove(self) -> None:
        """Remove the socket. Nothing is raised."""
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
    """A hash of the caller's ids, limits and namespaces, and of its version of cloche. Raises OSError."""
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
