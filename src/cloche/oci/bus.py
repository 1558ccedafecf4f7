"""D-Bus, as far as systemd's manager is asked: connections, calls, and the wait for a job.

Messages are written and read by jeepney. A connection is to the system's bus, to the user's (rootless containers), or
to the manager itself, which listens in a directory of its own and needs no bus. Each step has a limit of time: a bus
that hangs fails the command and does not hang it.
"""

import os
import socket
import time
from typing import Any, Final

__all__ = ["Bus", "BusError", "connect"]

MANAGER: Final = "org.freedesktop.systemd1"
MANAGER_PATH: Final = "/org/freedesktop/systemd1"
INTERFACE: Final = "org.freedesktop.systemd1.Manager"
_BUS: Final = "org.freedesktop.DBus"
_SYSTEM: Final = "/run/dbus/system_bus_socket"
_SYSTEM_DIRECT: Final = "/run/systemd/private"
_DIRECT: Final = "/systemd/private"  # the end of the manager's own address
_TIMEOUT_S: Final = 30.0  # as runc waits
_MAX_LINE: Final = 4096
_MAX_SIGNALS: Final = 10_000


class BusError(Exception):
    """A call was refused, or there is no answer; `name` is D-Bus's, empty for the latter."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name: str = name


def _unescaped(text: str) -> str:
    parts = text.split("%")
    return parts[0] + "".join(chr(int(part[:2], 16)) + part[2:] for part in parts[1:])


def _sockets(addresses: str) -> list[str]:
    """The Unix sockets of a D-Bus address; abstract ones begin with a zero."""
    found: list[str] = []
    for address in addresses.split(";"):
        kind, _colon, rest = address.partition(":")
        for pair in rest.split(","):
            key, _equals, value = pair.partition("=")
            if kind == "unix" and key in ("path", "abstract"):
                try:
                    found.append(("\0" if key == "abstract" else "") + _unescaped(value))
                except ValueError:
                    pass
    return found


def candidates(environment: dict[str, str], *, is_user: bool) -> list[str]:
    """The sockets at which the manager may be reached, the likeliest first."""
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if not is_user:
        return [*_sockets(environment.get("DBUS_SYSTEM_BUS_ADDRESS", "")), _SYSTEM, _SYSTEM_DIRECT]
    found = _sockets(environment.get("DBUS_SESSION_BUS_ADDRESS", ""))
    if runtime.startswith("/"):
        found += [os.path.join(runtime, "bus"), runtime + _DIRECT]
    return found


def connect(paths: list[str]) -> "Bus":
    """A connection to the first of these sockets that answers.  Raises BusError."""
    problem = "there is no address of a bus"
    for path in dict.fromkeys(paths):
        try:
            return Bus(path)
        except (OSError, BusError) as failure:
            problem = f"{path.lstrip(chr(0))}: {failure}"
    raise BusError("", problem)


class Bus:
    """A connection."""

    def __init__(self, path: str, timeout_s: float = _TIMEOUT_S) -> None:
        """Each call has `timeout_s`.  Raises OSError, BusError."""
        from jeepney.low_level import Parser

        self.path: str = path
        self.is_direct: bool = path.endswith(_DIRECT)
        self.parser: Any = Parser()
        self.serial: int = 0
        self.signals: list[Any] = []
        self.manager: str = ""  # the sender of what the manager says
        self.timeout_s: float = timeout_s
        self.deadline_s: float = time.monotonic() + timeout_s
        self.sock: socket.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(timeout_s)
            self.sock.connect(path)
            self._authenticate()
            if not self.is_direct:
                self.call(_BUS, "/org/freedesktop/DBus", _BUS, "Hello")
        except BaseException:
            self.sock.close()
            raise

    def close(self) -> None:
        """Close it."""
        self.sock.close()

    def _authenticate(self) -> None:
        """As the user of this process.  In a user namespace it does not know its own number outside, so none is said:
        the peer takes that of the socket.
        """
        self.sock.sendall(b"\0AUTH EXTERNAL\r\n")
        line = self._line()
        if line.startswith(b"DATA"):
            self.sock.sendall(b"DATA\r\n")
            line = self._line()
        if not line.startswith(b"OK "):
            raise BusError("", "not authenticated: " + line.decode("ascii", "replace"))
        self.sock.sendall(b"BEGIN\r\n")

    def _line(self) -> bytes:
        found = b""
        while not found.endswith(b"\r\n"):
            data = self.sock.recv(1)  # what follows is not for this
            if not data or len(found) > _MAX_LINE:
                raise BusError("", "the connection was closed")
            found += data
        return found[:-2]

    def _receive(self) -> Any:
        """The next message.  Raises BusError when time is over."""
        while True:
            try:
                message = self.parser.get_next_message()
                if message is not None:
                    return message
                self.sock.settimeout(max(self.deadline_s - time.monotonic(), 0.001))
                data = self.sock.recv(65536)
            except TimeoutError:
                raise BusError("", "timed out") from None
            except (OSError, ValueError, KeyError) as failure:
                raise BusError("", str(failure)) from None
            if not data:
                raise BusError("", "the connection was closed")
            self.parser.add_data(data)

    def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: tuple[Any, ...] = (),
    ) -> tuple[Any, ...]:
        """Call a method; its result.  Raises BusError."""
        from jeepney.low_level import HeaderFields, MessageType
        from jeepney.wrappers import DBusAddress, new_method_call

        self.deadline_s = time.monotonic() + self.timeout_s
        self.serial += 1
        address = DBusAddress(path, destination, interface)
        message = new_method_call(address, member, signature or None, body)
        try:
            self.sock.sendall(message.serialise(self.serial))
        except OSError as failure:
            raise BusError("", str(failure)) from None
        while True:
            found = self._receive()
            fields = found.header.fields
            kind = found.header.message_type
            if kind is MessageType.signal:
                if len(self.signals) < _MAX_SIGNALS:
                    self.signals.append(found)
            elif fields.get(HeaderFields.reply_serial) == self.serial:
                if kind is MessageType.error:
                    name = str(fields.get(HeaderFields.error_name, ""))
                    raise BusError(name, str(found.body[0]) if found.body else name)
                if destination == MANAGER:
                    self.manager = str(fields.get(HeaderFields.sender, ""))
                return tuple(found.body)

    def ask(self, member: str, signature: str = "", body: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """Call a method of systemd's manager.  Raises BusError."""
        return self.call(MANAGER, MANAGER_PATH, INTERFACE, member, signature, body)

    def subscribe(self) -> None:
        """Hear of the ends of jobs.  Raises BusError."""
        if not self.is_direct:
            rule = f"type='signal',interface='{INTERFACE}',member='JobRemoved',path='{MANAGER_PATH}'"
            self.call(_BUS, "/org/freedesktop/DBus", _BUS, "AddMatch", "s", (rule,))
        self.ask("Subscribe")

    def wait_for_job(self, job: str) -> str:
        """The result of a job: "done", or how it failed.  Raises BusError."""
        from jeepney.low_level import HeaderFields

        self.deadline_s = time.monotonic() + self.timeout_s
        while True:
            while self.signals:
                found = self.signals.pop(0)
                fields = found.header.fields
                is_theirs = str(fields.get(HeaderFields.sender, "")) == self.manager
                is_end = fields.get(HeaderFields.member) == "JobRemoved" and len(found.body) == 4
                if is_theirs and is_end and found.body[1] == job:
                    return str(found.body[3])
            self.signals.append(self._receive())
