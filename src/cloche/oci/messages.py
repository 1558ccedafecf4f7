"""What `create` tells the monitor that it has forked: values with descriptors, by a socket between the two; and the
names of later commands' requests beyond `wire.requests`.
"""

import marshal
import socket
from array import array
from typing import Any, Final

__all__ = ["EXEC", "JOIN", "PIDS", "hear", "say"]

EXEC: Final = "oci-exec"  # an ExecRequest; its streams and the anchor's socket; pid (of the anchor)
PIDS: Final = "oci-pids"  # -> pids: of every anchor
# container, root (of its record), spec, groups, share, share_with, streams (numbers), pid (of the anchor); descriptors:
# the streams, and the monitor's end of the anchor's socket  -> {}
JOIN: Final = "oci-join"

_LENGTH_BYTES: Final = 8
_MAX_FDS: Final = 32


def say(link: socket.socket, value: Any, fds: list[int]) -> None:
    """Send a message with copies of `fds`.  Raises OSError."""
    data = marshal.dumps(value)
    text = len(data).to_bytes(_LENGTH_BYTES, "little") + data
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    sent = link.sendmsg([text], rights)
    if sent < len(text):  # not even nothing is to be sent to one that has answered already, and gone
        link.sendall(text[sent:])


def hear(link: socket.socket) -> tuple[Any, list[int]]:
    """The next message, and its descriptors; None: `create` has given up, or died."""
    fds = array("i")
    found = b""
    wanted = _LENGTH_BYTES
    while len(found) < wanted:
        try:
            data, ancillary, _flags, _address = link.recvmsg(
                wanted - len(found), socket.CMSG_SPACE(fds.itemsize * _MAX_FDS), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            data, ancillary = b"", []
        for level, kind, each in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(each[: len(each) // fds.itemsize * fds.itemsize])
        if not data:
            return None, []
        found += data
        if len(found) == wanted == _LENGTH_BYTES:
            wanted += int.from_bytes(found, "little")
    return marshal.loads(found[_LENGTH_BYTES:]), fds.tolist()
