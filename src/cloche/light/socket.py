"""`socket` with plain numbers instead of enumerations, and sockets without files or timeouts by default."""

import _socket
from array import array

from cloche.light.standard import standard

globals().update({name: value for name, value in vars(_socket).items() if not name.startswith("_")})


class socket(_socket.socket):
    """A socket: `_socket.socket` and what the standard class adds that the parts use."""

    __slots__ = ["__weakref__"]

    def __enter__(self) -> "socket":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def accept(self) -> "tuple[socket, object]":
        """The next connection and its address."""
        fd, address = self._accept()  # type: ignore[attr-defined]
        connection = socket(self.family, self.type, self.proto, fileno=fd)
        if self.gettimeout():
            connection.setblocking(True)
        return connection, address

    def dup(self) -> "socket":
        """Another descriptor of the same socket, not inherited."""
        copy = self.__class__(self.family, self.type, self.proto, fileno=_socket.dup(self.fileno()))
        copy.settimeout(self.gettimeout())
        return copy


def socketpair(
    family: int = _socket.AF_UNIX, kind: int = _socket.SOCK_STREAM, proto: int = 0
) -> tuple[socket, socket]:
    """Two connected sockets."""
    ours, theirs = _socket.socketpair(family, kind, proto)
    return (
        socket(family, kind, proto, fileno=ours.detach()),
        socket(family, kind, proto, fileno=theirs.detach()),
    )


def send_fds(sock: socket, buffers: list[bytes], fds: list[int]) -> int:
    """Send a message with descriptors."""
    return sock.sendmsg(buffers, [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", fds))])


def recv_fds(sock: socket, bufsize: int, maxfds: int, flags: int = 0) -> tuple[bytes, list[int], int, object]:
    """A message and the descriptors that came with it."""
    fds = array("i")
    message, ancillary, flags, address = sock.recvmsg(bufsize, _socket.CMSG_LEN(maxfds * fds.itemsize), flags)
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return message, list(fds), flags, address


def __getattr__(name: str) -> object:
    return standard("socket", name)
