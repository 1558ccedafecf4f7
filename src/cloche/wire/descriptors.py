"""Receiving a message that may bring a descriptor, from a peer that may lie.

A peer that sends more descriptors than were agreed upon must not make the receiver keep them. This is the only place
that takes them out of a message, and surplus ones are closed before the bytes are read.
"""

import os
import socket
from array import array
from typing import Final

from cloche.abi.tcp import TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_INFO

__all__ = ["as_connection", "as_socket", "receive_with_descriptor", "tcp_listener"]

_STANDS: Final = (TCP_ESTABLISHED, TCP_CLOSE_WAIT)
_ROOM: Final = socket.CMSG_SPACE(4)  # the kernel closes what does not fit, and says MSG_CTRUNC


def receive_with_descriptor(sock: socket.socket, max_bytes: int, flags: int = 0) -> tuple[bytes, int]:
    """The next message and its descriptor, -1 if it has none; (b"", -1) at the end, or if the message was cut.

    Raises OSError (BlockingIOError: there is none yet).
    """
    data, control, found, _address = sock.recvmsg(max_bytes, _ROOM, flags | socket.MSG_CMSG_CLOEXEC)
    fds = array("i")
    for level, kind, content in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) // fds.itemsize * fds.itemsize])
    numbers: list[int] = fds.tolist()
    is_cut = found & (socket.MSG_TRUNC | socket.MSG_CTRUNC) != 0
    if len(numbers) == 1 and data and not is_cut:
        return data, numbers[0]
    for number in numbers:  # control messages are aligned, so two descriptors fit into the room for one
        os.close(number)
    return (b"", -1) if is_cut else (data, -1)


def as_socket(fd: int) -> socket.socket | None:
    """Make a socket of a received descriptor. If it is not a socket it is closed, and the result is None."""
    if fd < 0:
        return None
    try:
        return socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None


def as_connection(fd: int) -> socket.socket | None:
    """Make a socket of a received descriptor that is to be an accepted TCP connection. If it is anything else it is
    closed, and the result is None.

    The connection's peer may have reset it meanwhile; the caller notices that as with any connection. A socket that
    was never connected is recognized by having no local port.
    """
    sock = as_socket(fd)
    if sock is None:
        return None
    try:
        if (
            sock.family in (socket.AF_INET, socket.AF_INET6)
            and sock.type == socket.SOCK_STREAM
            and sock.proto == socket.IPPROTO_TCP
        ):
            state = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 1)[0]  # tcpi_state
            if state in _STANDS or (state == TCP_CLOSE and sock.getsockname()[1]):
                return sock
    except OSError:
        pass
    sock.close()
    return None


def tcp_listener(fd: int) -> socket.socket | None:
    """Another descriptor of a socket of TCP that listens; None if it is anything else, as a listener of SCTP."""
    sock = as_socket(os.dup(fd)) if fd >= 0 else None
    if sock is None:
        return None
    try:
        if (
            sock.family in (socket.AF_INET, socket.AF_INET6)
            and sock.type == socket.SOCK_STREAM
            and sock.proto == socket.IPPROTO_TCP
            and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        ):
            return sock
    except OSError:
        pass
    sock.close()
    return None
