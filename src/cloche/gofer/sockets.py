"""The gofer's Unix sockets: those that programs bind in a volume, and, where the volume allows it, the host's there.

A socket is made, bound and set to listen here, and then given away; none of its data is read here. A name is a
component below a directory descriptor, and a socket that is connected to is pinned first, so that no symbolic link
and no exchanged name leads anywhere else. Connections have this process's credentials (SO_PEERCRED): so only the
user that this process runs as may make them.

Precondition: the working directory is /proc/PID/fd, as for `gofer.files`.
"""

import os
import socket
import stat as stat_module
from struct import Struct
from typing import Final

from cloche.abi.errno import EACCES, EBADF, ECONNREFUSED, EINVAL, ENFILE, ESTALE, LinuxError
from cloche.abi.socket import SO_PEERCRED, SOL_SOCKET
from cloche.abi.socket_structs import SOCKADDR_UN_SIZE
from cloche.gofer.files import Files
from cloche.gofer.nodes import Node

__all__ = ["MAX_UNUSED", "Sockets"]

MAX_UNUSED: Final = 1024  # bound, and not yet listening
_MAX_BACKLOG: Final = 4096
_KINDS: Final = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
_UCRED: Final = Struct("<iII")


class Sockets:
    """The sockets of one worker."""

    def __init__(self, files: Files) -> None:
        self._files: Files = files
        self._bound: dict[int, socket.socket] = {}  # by the numbers that the sentry has
        self._next: int = 1

    def bind(
        self, node: Node, name: bytes, kind: int, mode: int, uid: int, gid: int
    ) -> tuple[os.stat_result, int]:
        """Make a socket at a new name. Returns its attributes and its number: 0 where programs of the sandbox alone
        meet at it. Raises LinuxError, OSError.
        """
        if kind not in _KINDS or mode & ~0o7777:
            raise LinuxError(EINVAL)
        if not node.attach.has_doors or kind == socket.SOCK_DGRAM:
            return self._files.mknod(node, name, stat_module.S_IFSOCK | mode, uid, gid), 0
        if len(self._bound) >= MAX_UNUSED:
            raise LinuxError(ENFILE)
        dir_fd = self._files.writable_dir(node, name)
        place = b"%d/%s" % (dir_fd, name)
        if len(place) >= SOCKADDR_UN_SIZE - 2:
            return self._files.mknod(node, name, stat_module.S_IFSOCK | mode, uid, gid), 0
        made = _new(kind)
        try:
            os.fchmod(made.fileno(), mode & 0o777)  # which the name's node takes over
            status = self._files.add_socket(node, name, mode, uid, gid, lambda: made.bind(place))
        except BaseException:
            made.close()
            raise
        number = self._next
        self._next = number + 1
        self._bound[number] = made
        return status, number

    def listen(self, number: int, backlog: int) -> socket.socket:
        """Have a bound socket listen; it is the caller's from then on.  Raises LinuxError(EBADF), OSError."""
        made = self._bound.pop(number, None)
        if made is None:
            raise LinuxError(EBADF)
        try:
            made.listen(min(backlog, _MAX_BACKLOG))
        except OSError:
            made.close()
            raise
        return made

    def drop(self, number: int) -> None:
        """Close a bound socket; an unknown number is ignored."""
        made = self._bound.pop(number, None)
        if made is not None:
            made.close()

    def connect(
        self, node: Node, name: bytes, dev: int, ino: int, kind: int, uid: int
    ) -> tuple[socket.socket, bytes]:
        """Connect to a socket of the host's for the user `uid`; the caller closes it. Also the server's user and group,
        as this process calls them.

        Raises LinuxError, OSError (EAGAIN: its backlog is full).
        """
        if not node.attach.shows_sockets or uid != os.geteuid():
            raise LinuxError(EACCES)
        if kind not in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            raise LinuxError(EINVAL)
        pinned = self._files.pin(node, name)
        try:
            status = os.fstat(pinned)
            if not stat_module.S_ISSOCK(status.st_mode):
                raise LinuxError(ECONNREFUSED)
            if (status.st_dev, status.st_ino) != (dev, ino):
                raise LinuxError(ESTALE)
            made = _new(kind)
            try:
                made.connect(str(pinned))
                _pid, peer_uid, peer_gid = _UCRED.unpack(
                    made.getsockopt(SOL_SOCKET, SO_PEERCRED, _UCRED.size)
                )
            except BaseException:
                made.close()
                raise
        finally:
            os.close(pinned)
        return made, peer_uid.to_bytes(4, "little") + peer_gid.to_bytes(4, "little")


def _new(kind: int) -> socket.socket:
    return socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
