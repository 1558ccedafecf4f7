"""A client's end of the control protocol (`wire.control`): one connection to the monitor of a sandbox."""

import socket
from struct import Struct
from typing import Final

from cloche.wire.control import (
    MAX_BODY_BYTES,
    OP_EXEC,
    OP_KILL,
    OP_PS,
    OP_SIGNAL,
    OP_STOP,
    OP_WAIT,
    OP_WINDOW,
    RE_ENDED,
    RE_FAILED,
    VERSION,
    ExecRequest,
    Process,
    decode_table,
    encode_exec,
    fd_message,
)
from cloche.wire.frame import Frame, FrameChannel, ProtocolError

_HEAD: Final = Struct("<IiI")
_VERSION: Final = VERSION.to_bytes(2, "little")


class ControlError(Exception):
    """The request failed; `status` is what a command exits with."""

    def __init__(self, text: str, status: int = 125) -> None:
        super().__init__(text)
        self.status: int = status


class Ended(ControlError):
    """The sandbox has ended; `exit_status` is the one that `cloche run` gives."""

    def __init__(self, exit_status: int, text: str) -> None:
        super().__init__(text or "the sandbox has ended", 137)
        self.exit_status: int = exit_status
        self.text: str = text


class ControlClient:
    """A connection, for one request (and, with `execute`, what follows it)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock: socket.socket = sock
        self._channel: FrameChannel = FrameChannel(sock, MAX_BODY_BYTES, may_receive_fds=False)

    def fileno(self) -> int:
        """To wait for replies."""
        return self._sock.fileno()

    def close(self) -> None:
        """End the connection; what it executes (unless detached) ends too."""
        self._sock.close()

    def send(self, code: int, body: bytes, fds: list[int] | None = None) -> None:
        """Send a request.  A peer that has answered and gone is no error: `receive` gives its answer."""
        data = _HEAD.pack(len(body), code, 0) + body
        try:
            sent = self._sock.sendmsg([data], fd_message(fds or []))
            if sent < len(data):
                self._sock.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError):
            pass

    def receive(self) -> Frame:
        """The next reply.  Raises Ended, and ControlError if the monitor died or refused."""
        try:
            frame = self._channel.receive()
        except (OSError, ProtocolError):
            frame = None
        if frame is None:
            raise ControlError("the sandbox's monitor died")
        if frame.code == RE_FAILED:
            status = frame.body[0] if frame.body else 125
            raise ControlError(frame.body[1:].decode(errors="replace"), status)
        if frame.code == RE_ENDED and len(frame.body) >= 4:
            status = int.from_bytes(frame.body[:4], "little", signed=True)
            raise Ended(status, frame.body[4:].decode(errors="replace"))
        return frame

    def execute(self, request: ExecRequest, fds: list[int]) -> None:
        """Ask for a command; RE_STARTED and RE_EXITED follow.  Raises ControlError, OSError."""
        body = encode_exec(request)
        if len(body) > MAX_BODY_BYTES:
            raise ControlError(f"arguments and environment are longer than {MAX_BODY_BYTES >> 20} MiB", 126)
        self.send(OP_EXEC, body, fds)

    def signal(self, signo: int, scope: int) -> None:
        """A signal to the command of `execute`."""
        self.send(OP_SIGNAL, bytes([signo, scope]))

    def resize(self, rows: int, columns: int) -> None:
        """The window of the command of `execute`."""
        self.send(OP_WINDOW, rows.to_bytes(2, "little") + columns.to_bytes(2, "little"))

    def processes(self) -> list[Process]:
        """What runs inside.  Raises ControlError."""
        self.send(OP_PS, _VERSION)
        try:
            return decode_table(self.receive().body)
        except ProtocolError as error:
            raise ControlError(str(error)) from None

    def kill(self, signo: int, *, is_all: bool) -> None:
        """A signal to the sandbox's first process, or to all.  Raises ControlError."""
        self.send(OP_KILL, _VERSION + bytes([signo, int(is_all)]))
        self.receive()

    def wait(self) -> Ended:
        """How the sandbox ended, once it has.  Raises ControlError if its monitor died."""
        self.send(OP_WAIT, _VERSION)
        return self._end()

    def stop(self, patience_ms: int) -> Ended:
        """SIGTERM, SIGKILL after a while; how it ended."""
        self.send(OP_STOP, _VERSION + patience_ms.to_bytes(4, "little"))
        return self._end()

    def _end(self) -> Ended:
        while True:
            try:
                self.receive()
            except Ended as end:
                return end
