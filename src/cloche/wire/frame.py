"""Frames on a stream socket: how two processes of one sandbox exchange messages and descriptors.

A frame is a header of 12 bytes (length of the body, code, flags; little endian) and a body.  `code` is the
operation in a request, and 0 or a negative errno in a reply.  A reply may consist of several frames: all but
the last have FLAG_MORE, so that neither side holds a large answer whole.  Descriptors travel with the first
byte of a frame (SCM_RIGHTS, unix(7)); the header says how many, because several frames may be read at once.
The rest of the flags is a number that the asker gave the request; the reply has the same.

A channel whose socket has a timeout raises TimeoutError when nothing comes in time; bytes that have come are kept,
and the call may be made again.
"""

import socket
from _thread import LockType, allocate_lock
from array import array
from struct import Struct
from typing import Final

__all__ = ["FLAG_MORE", "MAX_IDENT", "Frame", "FrameChannel", "ProtocolError"]

FLAG_MORE: Final = 1  # another frame of this reply follows
_FDS_SHIFT: Final = 1
_FDS_MASK: Final = 0x1F
_IDENT_SHIFT: Final = 8
MAX_IDENT: Final = (1 << 24) - 1

_HEADER: Final = Struct("<IiI")
_HEADER_BYTES: Final = 12
_MAX_FDS: Final = 20
_READ_BYTES: Final = 65536


class ProtocolError(Exception):
    """The peer sent what no correct peer sends, or vanished in the middle of a frame."""


class Frame:
    """One message."""

    def __init__(self, code: int, flags: int, body: bytes, fds: list[int]) -> None:
        self.code: int = code
        self.flags: int = flags & FLAG_MORE
        self.ident: int = flags >> _IDENT_SHIFT
        self.body: bytes = body
        self.fds: list[int] = fds  # owned by the receiver, close-on-exec


class FrameChannel:
    """One end of a connection.

    `max_body_bytes` bounds what the peer can make this side allocate.  Descriptors are received only if
    `may_receive_fds`; otherwise the kernel drops what the peer attached.
    """

    def __init__(self, sock: socket.socket, max_body_bytes: int, *, may_receive_fds: bool) -> None:
        self._sock: socket.socket = sock
        self._max_body: int = max_body_bytes
        self._may_receive_fds: bool = may_receive_fds
        self._buffer: bytearray = bytearray()
        self._rights: list[list[int]] = []  # the descriptors of each frame that has come with some
        self._lock: LockType = allocate_lock()  # held while a frame is sent, so that frames do not mix
        self.ident: int = 0  # number of the request that is being sent or answered
        self._ancillary_bytes: int = socket.CMSG_SPACE(4 * _MAX_FDS)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def pack(self, code: int, flags: int, body: bytes) -> bytes:
        """A frame without descriptors, for a caller that sends it itself without waiting."""
        return _HEADER.pack(len(body), code, flags | self.ident << _IDENT_SHIFT) + body

    def send(self, code: int, flags: int, body: bytes, fd: int = -1) -> None:
        """Send one frame, with the descriptor `fd` unless it is -1.  Raises OSError (EPIPE, ECONNRESET)."""
        self.send_fds(code, flags, body, [fd] if fd >= 0 else [])

    def send_fds(self, code: int, flags: int, body: bytes, fds: list[int]) -> None:
        """Send one frame with some descriptors.  Raises OSError (EPIPE, ECONNRESET)."""
        flags |= len(fds) << _FDS_SHIFT | self.ident << _IDENT_SHIFT
        data = _HEADER.pack(len(body), code, flags) + body
        with self._lock:
            if not fds:
                self._sock.sendall(data)
                return
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))]
            sent = self._sock.sendmsg([data], ancillary)
            if sent < len(data):
                self._sock.sendall(data[sent:])

    def reply(self, ident: int, code: int, body: bytes) -> None:
        """Send the reply to another request than the one being handled; any thread may call this. Raises OSError."""
        data = _HEADER.pack(len(body), code, ident << _IDENT_SHIFT) + body
        with self._lock:
            self._sock.sendall(data)

    def receive(self) -> Frame | None:
        """The next frame; None if the peer closed the connection between two frames.

        Raises ProtocolError for a frame that is too long or cut off, OSError if the connection broke, TimeoutError.
        """
        buffer = self._buffer
        while len(buffer) < _HEADER_BYTES:
            if not self._fill():
                if buffer:
                    raise ProtocolError("end of stream in a header")
                return None
        length, code, flags = _HEADER.unpack_from(buffer)
        if length > self._max_body:
            raise ProtocolError(f"a body of {length} bytes")
        total = _HEADER_BYTES + length
        while len(buffer) < total:
            if not self._fill():
                raise ProtocolError("end of stream in a body")
        body = bytes(buffer[_HEADER_BYTES:total])
        del buffer[:total]
        fds: list[int] = []
        if flags >> _FDS_SHIFT & _FDS_MASK and self._may_receive_fds and self._rights:
            fds = self._rights.pop(0)
        return Frame(code, flags, body, fds)

    def has_frame(self) -> bool:
        """Whether `receive` has a whole frame already."""
        buffer = self._buffer
        if len(buffer) < _HEADER_BYTES:
            return False
        length: int = _HEADER.unpack_from(buffer)[0]
        return length > self._max_body or len(buffer) >= _HEADER_BYTES + length

    def _fill(self) -> bool:
        """Read what is there; False at the end of the stream."""
        if not self._may_receive_fds:
            data = self._sock.recv(_READ_BYTES)
        else:
            data, ancillary, flags, _address = self._sock.recvmsg(
                _READ_BYTES, self._ancillary_bytes, socket.MSG_CMSG_CLOEXEC
            )
            fds: list[int] = []
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    received = array("i")
                    received.frombytes(payload[: len(payload) // 4 * 4])
                    fds.extend(received.tolist())
            # One read brings the descriptors of one frame at most; the kernel drops what exceeds RLIMIT_NOFILE.
            if fds or flags & socket.MSG_CTRUNC:
                self._rights.append(fds)
        self._buffer += data
        return len(data) > 0
