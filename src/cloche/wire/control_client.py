"""A client's end of the control protocol (`wire.requests`): one connection to the monitor of a sandbox. Its calls
wait.
"""

import os
import socket
from typing import Final

from cloche.wire import protocol, requests
from cloche.wire.channel import Channel
from cloche.wire.protocol import Fields, Message, ProtocolError, take_int, take_text
from cloche.wire.requests import ExecRequest, Process

SOFTWARE: Final = "cloche"


class ControlError(Exception):
    """The request failed; `status` is what a command exits with."""

    def __init__(self, text: str, status: int = 125) -> None:
        super().__init__(text)
        self.status: int = status


class Ended(ControlError):
    """The sandbox has ended; `exit_status` is the one that `cloche run` gives."""

    def __init__(self, exit_status: int, text: str) -> None:
        super().__init__(text or "the sandbox has ended", requests.STATUS_ENDED)
        self.exit_status: int = exit_status
        self.text: str = text


class ControlClient:
    """A connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._channel: Channel = Channel(sock, SOFTWARE)
        self._messages: list[Message] = []
        self._next_ident: int = 1

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._channel.fileno()

    def close(self) -> None:
        """End the connection; what it executes (unless detached) ends too."""
        self._channel.close()

    # -- messages ----------------------------------------------------------------------------------------
    def ask(self, method: str, fields: Fields, fds: list[int] | None = None) -> int:
        """Send a request, with copies of `fds`; its id.  Raises ControlError for one that is too long."""
        ident = self._next_ident
        self._next_ident += 1
        try:
            frame = protocol.request(ident, method, fields, len(fds or []))
            self._channel.send(frame, [os.dup(fd) for fd in fds or []])
        except ProtocolError as error:
            raise ControlError(str(error)) from None
        self._channel.flush_all(-1)
        return ident

    def has_message(self) -> bool:
        """Whether `receive` gives one without waiting."""
        return bool(self._messages)

    def receive(self, ident: int = 0) -> Message:
        """The next answer or event, HELLO left out; with `ident` only those of that request.

        Raises ControlError if the monitor has died, or refuses the connection (id 0) or the request. An answer that
        comes late, to a request that was given up, is never taken for another request's.
        """
        while True:
            message = self.take(ident)
            if message is not None:
                return message

    def take(self, ident: int) -> Message | None:
        """The next message; None if it belongs to another request. For callers that must look at signals between
        messages.
        """
        message = self._next()
        if ident and message.ident not in (0, ident):
            return None
        if message.kind == protocol.ERROR:
            raise ControlError(message.name, message.number)
        return message

    def _next(self) -> Message:
        """Raises ControlError if the monitor died."""
        while not self._messages:
            try:
                found = self._channel.receive(is_waiting=True)
            except ProtocolError as error:
                raise ControlError(str(error)) from None
            if found is None:
                raise ControlError("the sandbox's monitor died")
            self._messages += [message for message in found if message.kind != protocol.HELLO]
        message = self._messages.pop(0)
        message.close_fds()
        return message

    def has_answer(self) -> bool:
        """Whether `receive` would return an answer, or raise, without waiting."""
        try:
            found = self._channel.receive()
        except ProtocolError:
            return True
        if found is None:
            return True
        self._messages += [message for message in found if message.kind != protocol.HELLO]
        return bool(self._messages)

    def answer(self, ident: int) -> Message:
        """The answer to a request; events, and messages of other requests, are dropped.  Raises ControlError."""
        while True:
            message = self.receive(ident)
            if message.ident == ident and message.kind == protocol.REPLY:
                return message

    def call(self, method: str, fields: Fields) -> Fields:
        """Ask and wait for the answer.  Raises ControlError."""
        return self.answer(self.ask(method, fields)).fields

    # -- requests ----------------------------------------------------------------------------------------
    def execute(self, request: ExecRequest, fds: list[int]) -> int:
        """Ask for a command with copies of `fds`; the request's id.  Event "started" and the answer follow.

        Raises ControlError.
        """
        size = sum([len(item) for item in request.argv]) + sum([len(item) for item in request.env])
        if size > requests.MAX_BODY_BYTES:
            limit = requests.MAX_BODY_BYTES >> 20
            raise ControlError(f"arguments and environment are longer than {limit} MiB", 126)
        return self.ask(requests.EXEC, request.to_fields(), fds)

    def signal(self, ident: int, signo: int, scope: str) -> None:
        """Send a signal to the command of `execute`, without waiting for the answer."""
        self.ask(requests.SIGNAL, {"exec": ident, "signal": signo, "scope": scope})

    def resize(self, ident: int, rows: int, columns: int) -> None:
        """Set the window size of the command of `execute`, without waiting for the answer."""
        self.ask(requests.RESIZE, {"exec": ident, "rows": rows, "columns": columns})

    def processes(self) -> list[Process]:
        """The processes inside. Raises ControlError."""
        try:
            return requests.processes(self.call(requests.PS, {}))
        except ProtocolError as error:
            raise ControlError(str(error)) from None

    def kill(self, signo: int, *, is_all: bool) -> None:
        """Send a signal to the sandbox's first process, or to all. Raises ControlError."""
        scope = requests.ALL if is_all else requests.PROCESS
        self.call(requests.SIGNAL, {"signal": signo, "scope": scope})

    def wait(self) -> Ended:
        """Wait for the end of the sandbox. Raises ControlError if its monitor has died."""
        return ended(self.call(requests.WAIT, {}))

    def stop(self, patience_ms: int, *, is_forgotten: bool = False) -> Ended:
        """Send SIGTERM, and SIGKILL after `patience_ms`; wait for the end. `is_forgotten`: an automatic layer is
        removed with the sandbox.
        """
        return ended(self.call(requests.STOP, {"patience_ms": patience_ms, "is_forgotten": is_forgotten}))


def ended(fields: Fields) -> Ended:
    """The answer to `wait` and `stop`.  Raises ControlError."""
    try:
        return Ended(take_int(fields, "status", 0, -1, 255), take_text(fields, "text"))
    except ProtocolError as error:
        raise ControlError(str(error)) from None
