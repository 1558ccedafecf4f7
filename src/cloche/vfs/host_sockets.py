"""Unix sockets of the host's behind names: what file systems that have some provide, and `net.unix_host` uses."""

from mypy_extensions import trait

from cloche.vfs.objects import Context, Inode

__all__ = ["HostDoor", "HostEnd", "SocketNode", "SocketPlace"]


class HostDoor:
    """A socket of the host's behind one that was bound to a name: clients from outside come in through it."""

    def listen(self, backlog: int) -> int:
        """Have it listen: its descriptor, which is the caller's from then on.  Raises LinuxError."""
        raise NotImplementedError

    def close(self) -> None:
        """It will not listen."""
        raise NotImplementedError


class HostEnd:
    """A connection to a socket of the host's."""

    def __init__(self, fd: int, uid: int, gid: int) -> None:
        self.fd: int = fd  # owned by the receiver of this object
        self.uid: int = uid  # the server's, kernel ids
        self.gid: int = gid


@trait
class SocketPlace:
    """A directory in which sockets that are bound are the host's, too."""

    def bind_socket(self, ctx: Context, name: bytes, mode: int, kind: int) -> tuple[Inode, HostDoor | None]:
        """The node of a socket of type `kind`, and what is behind it on the host.  Raises LinuxError."""
        raise NotImplementedError


@trait
class SocketNode:
    """A node that may name a socket of the host's."""

    def may_dial(self) -> bool:
        """Whether programs may connect to it."""
        raise NotImplementedError

    def dial(self, ctx: Context, kind: int) -> HostEnd:
        """Connect to it, as programs may.  Raises LinuxError."""
        raise NotImplementedError
