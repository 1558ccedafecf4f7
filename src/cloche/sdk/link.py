"""A connection to a sandbox's monitor, which never waits: requests go out, messages come in (`wire.requests`).

Every call of the SDK has a connection of its own. So calls of several threads and tasks do not interfere, a process
that was forked from the caller shares none of them, and what a call has started ends with the call.

One thread reads the output of a command, and others may signal it, resize its terminal or cancel it over the same
connection; so may a handler of Python's signals, which interrupts its thread between any two steps.
"""

import itertools
import os
import threading
import time
from typing import Final

from cloche.runtime.records import RecordError, Store
from cloche.sdk.effects import Steps, wait
from cloche.sdk.errors import InvalidArgument, NotFound, SandboxEnded, SandboxError, SandboxTimeout
from cloche.wire import protocol, requests
from cloche.wire.channel import Channel
from cloche.wire.protocol import Fields, Message, ProtocolError

SOFTWARE: Final = "cloche sdk"
EXIT_INTERNAL: Final = 125
PATIENCE_S: Final = 60.0  # for the answer to a request that takes no time


class Refused(SandboxError):
    """The answer to a request was an error; `status` is what a command would exit with."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status: int = status


class Link:
    """One connection. Several threads, and handlers of signals, may send; one at a time may read."""

    def __init__(self, channel: Channel) -> None:
        self.channel: Channel = channel
        self._messages: list[Message] = []
        self._idents: Final = itertools.count(1)
        self.is_over: bool = False  # the monitor has closed it
        # A channel that is asked in the middle of sending sends the same frame again. The lock keeps other threads
        # out. Who has it and finds `_is_sending` is a handler that has interrupted the sender, and leaves it the frame.
        self._lock: Final = threading.RLock()
        self._is_sending: bool = False
        self._later: Final[list[tuple[bytes, list[int]]]] = []  # frames, with their descriptors (owned)
        self._owner_pid: Final = os.getpid()

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self.channel.fileno()

    def close(self) -> None:
        """Close the connection; the commands that were executed over it end."""
        if not self.is_ours():
            self.channel.close()  # in a fork, where a thread that does not exist may have the lock
            return
        with self._lock:  # nobody may send to a descriptor that is something else by then
            self.channel.close()

    def is_ours(self) -> bool:
        """Whether this process has made it, and is no fork of the one that has."""
        return os.getpid() == self._owner_pid

    def check_owner(self) -> None:
        """Raises SandboxError in a fork, which would take the messages and the output that the parent waits for."""
        if not self.is_ours():
            raise SandboxError(
                "this handle belongs to the process that has made it, of which this one is a fork",
                "make another one",
            )

    # -- without waiting ---------------------------------------------------------------------------------
    def ask(self, method: str, fields: Fields, fds: list[int] | None = None) -> int:
        """Send a request, with copies of `fds`; its id.  Raises InvalidArgument for one that is too long."""
        ident = next(self._idents)
        try:
            frame = protocol.request(ident, method, fields, len(fds or []))
            self._send((frame, [os.dup(fd) for fd in fds or []]))
        except ProtocolError as error:
            raise InvalidArgument(f"{method}: {error}", "ask for less at once") from None
        return ident

    def cancel(self, ident: int) -> None:
        """Cancel a request: no answer comes, and the command that it has started ends."""
        try:
            self._send((protocol.cancel(ident), []))
        except ProtocolError:
            pass  # the monitor is not reading; closing the connection cancels as well

    def _send(self, *frames: tuple[bytes, list[int]]) -> None:
        """Send what waits, then these.  Raises ProtocolError."""
        with self._lock:
            self._later.extend(frames)
            while not self._is_sending:
                self._is_sending = True
                try:
                    self.channel.flush()
                    while self._later:
                        self.channel.send(*self._later.pop(0))
                finally:
                    self._is_sending = False
                if not self._later:  # a handler may have come in between
                    break

    def wants(self) -> list[int]:
        """Descriptors to wait for until they can be written."""
        return [self.fileno()] if self.channel.wants_write() else []

    def take(self) -> list[Message]:
        """The messages that have come. Sets `is_over` at the end of the connection. Raises SandboxError for a message
        that no sandbox sends.
        """
        self._send()
        while True:
            try:
                with self._lock:
                    found = self.channel.receive()
            except ProtocolError as error:
                raise SandboxError(f"the sandbox's monitor does not speak our protocol: {error}") from None
            if found is None:
                self.is_over = True
                break
            if not found:
                break
            for message in found:
                message.close_fds()
                if message.kind != protocol.HELLO:
                    self._messages.append(message)
        taken, self._messages = self._messages, []
        return taken

    # -- waiting -----------------------------------------------------------------------------------------
    def answer(self, ident: int, deadline_s: float | None) -> Steps[Fields]:
        """The answer to a request; events and other answers are dropped.

        Raises Refused, SandboxEnded, SandboxTimeout.
        """
        while True:
            messages = self.take()
            for index, message in enumerate(messages):
                if message.kind == protocol.ERROR and message.ident in (0, ident):
                    raise refusal(message)
                if message.kind == protocol.REPLY and message.ident == ident:
                    self._messages = messages[index + 1 :] + self._messages
                    return message.fields
            if self.is_over:
                raise SandboxEnded(ENDED_TEXT, ANOTHER)
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise SandboxTimeout("the sandbox gave no answer in time; it may be overloaded", KILL)
            yield from wait([self.fileno()], self.wants(), deadline_s)

    def call(self, method: str, fields: Fields, deadline_s: float | None = None) -> Steps[Fields]:
        """Ask and wait for the answer."""
        ident = self.ask(method, fields)
        limit_s = time.monotonic() + PATIENCE_S if deadline_s is None else deadline_s
        return (yield from self.answer(ident, limit_s))


ENDED_TEXT: Final = "the sandbox has ended: it was killed, its time was over, or whoever made it is gone"
ANOTHER: Final = "make another sandbox"  # remedies
KILL: Final = "kill() ends the sandbox"


def refusal(message: Message) -> SandboxError:
    """The exception for an ERROR."""
    if message.number == requests.STATUS_ENDED:
        return SandboxEnded(message.name, ANOTHER)
    return Refused(message.name, message.number)


def connect(root: str, name: str, *, was_known: bool) -> Link:
    """A connection to the sandbox of that name.  Raises SandboxEnded (`was_known`), NotFound."""
    try:
        sock = Store(root).connect(name)
    except RecordError as error:
        if was_known:
            raise SandboxEnded(f"{name}: {ENDED_TEXT}", ANOTHER) from None
        raise NotFound(str(error), "Sandbox.list() gives those that run") from None
    sock.setblocking(False)
    return Link(Channel(sock, SOFTWARE))


def call(root: str, name: str, method: str, fields: Fields) -> Steps[Fields]:
    """One request on a connection of its own."""
    link = connect(root, name, was_known=True)
    try:
        return (yield from link.call(method, fields))
    finally:
        link.close()
