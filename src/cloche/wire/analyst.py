"""Messages between gofer and analyst: one datagram (SOCK_SEQPACKET) each way.

A request carries the O_RDONLY descriptor of a file; a reply carries that of its text file (`wire/textfile.py`) if its
status is DONE. Requests may be sent without waiting; replies come in the order of the requests, with the request's
number. A reply says whether it is valid as long as the file's size and times stay the same (LASTS), or for this once
only: a process may be writing to the file without changing its times (`analyst/writers.py`).
"""

import socket
from array import array
from struct import Struct
from typing import Final

from cloche.wire.frame import ProtocolError

__all__ = [
    "BY_CONTENTS",
    "DONE",
    "LASTS",
    "MAY_CACHE",
    "NO_SITES",
    "REQUEST_BYTES",
    "Reply",
    "Request",
    "receive_reply",
    "receive_request",
    "send_reply",
    "send_request",
]

MAY_CACHE: Final = 1  # the result is worth caching (whether it may be cached, the analyst decides)

DONE: Final = 0
NO_SITES: Final = 1

# Flags of replies.
LASTS: Final = 1
# Whether a process writes to the file could not be found out: the reply is for its present contents
BY_CONTENTS: Final = 2

_REQUEST: Final = Struct("<II")  # number, flags
_REPLY: Final = Struct("<IiI")  # number, status or a negative errno, flags
REQUEST_BYTES: Final = 8
_REPLY_BYTES: Final = 12
_ANCILLARY_BYTES: Final = 64


class Request:
    """A file to analyse; the receiver owns `fd`."""

    def __init__(self, number: int, flags: int, fd: int) -> None:
        self.number: int = number
        self.flags: int = flags
        self.fd: int = fd


class Reply:
    """`status` is DONE (then the receiver owns `fd`), NO_SITES, or a negative errno."""

    def __init__(self, number: int, status: int, flags: int, fd: int) -> None:
        self.number: int = number
        self.status: int = status
        self.lasts: bool = flags & LASTS != 0
        self.is_by_contents: bool = flags & BY_CONTENTS != 0
        self.fd: int = fd


def send_request(sock: socket.socket, number: int, flags: int, fd: int) -> None:
    """Ask for the text of the file `fd`.  Raises OSError."""
    _send(sock, _REQUEST.pack(number, flags), fd)


def send_reply(sock: socket.socket, number: int, status: int, flags: int, fd: int) -> None:
    """Answer; `fd` is -1 unless the status is DONE.  Raises OSError."""
    _send(sock, _REPLY.pack(number, status, flags), fd)


def receive_request(sock: socket.socket) -> Request | None:
    """The next request; None once the other side has gone.  Raises ProtocolError and OSError."""
    data, fd = _receive(sock, REQUEST_BYTES)
    if not data:
        return None
    number, flags = _REQUEST.unpack(data)
    if fd < 0 or flags & ~MAY_CACHE:
        _drop(fd)
        raise ProtocolError("a request of no sense")
    return Request(number, flags, fd)


def receive_reply(sock: socket.socket) -> Reply | None:
    """The next reply; None once the analyst has gone.  Raises ProtocolError and OSError."""
    data, fd = _receive(sock, _REPLY_BYTES)
    if not data:
        return None
    number, status, flags = _REPLY.unpack(data)
    if (status == DONE) != (fd >= 0) or status > NO_SITES or flags & ~(LASTS | BY_CONTENTS):
        _drop(fd)
        raise ProtocolError("a reply of no sense")
    return Reply(number, status, flags, fd)


def _send(sock: socket.socket, data: bytes, fd: int) -> None:
    if fd < 0:
        sock.send(data)
        return
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))]
    sock.sendmsg([data], ancillary)


def _receive(sock: socket.socket, size: int) -> tuple[bytes, int]:
    """A message of this size and its descriptor (-1: none); an empty one at the end."""
    data, ancillary, _flags, _address = sock.recvmsg(size + 1, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received = array("i")
            received.frombytes(payload[: len(payload) // 4 * 4])
            fds.extend(received.tolist())
    if len(fds) > 1 or len(data) not in (0, size) or (not data and fds):
        for fd in fds:
            _drop(fd)
        raise ProtocolError("a message of no sense")
    return data, fds[0] if fds else -1


def _drop(fd: int) -> None:
    if fd >= 0:
        socket.close(fd)
