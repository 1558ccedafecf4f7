"""The network process at work: sockets that the sentry asks for, made in the container's network namespace.

One loop, no threads. It makes sockets, binds and connects them, hands them over, and sends datagrams from sockets
without a peer. It reads no data from any of them. Where egress decides what leaves, it only binds and listens: it
connects nothing, and sends nothing.
"""

import errno
import os
import select
import socket
from array import array
from typing import Final

from cloche.abi.inet import (
    IP_PKTINFO,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPV6_RECVPKTINFO,
)
from cloche.boot.seccomp_netns import ALLOWED_OPTIONS
from cloche.netns.links import MAX_BYTES, Links
from cloche.platform import hostsys
from cloche.wire import netns as wire
from cloche.wire.netns import Answer, Making, Name, NetMessage, OptionValue

__all__ = ["MAX_SOCKETS", "Server"]

MAX_SOCKETS: Final = 4096  # at a time
_MAX_BACKLOG: Final = 1 << 16
_KINDS: Final = {
    wire.TCP: socket.SOCK_STREAM,
    wire.UDP: socket.SOCK_DGRAM,
    wire.PING: socket.SOCK_DGRAM,
    wire.RAW_ICMP: socket.SOCK_RAW,
}
_ALLOWED: Final = frozenset(ALLOWED_OPTIONS)


class Held:
    """A socket that this process holds, or the errno of its failure."""

    def __init__(self, making: Making) -> None:
        self.transport: int = making.transport
        self.is_v6: bool = making.family == socket.AF_INET6
        self.errno: int = 0
        self.is_given: bool = False
        self.sock: socket.socket | None = None

    def close(self) -> None:
        """Close the socket."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def address(self, name: Name) -> tuple[str, int] | tuple[str, int, int, int]:
        """An address for `socket`: numeric text, never a name that would be looked up."""
        addr = name.addr
        if not self.is_v6:
            if len(addr) != 4:
                raise OSError(errno.EAFNOSUPPORT, "")
            return socket.inet_ntop(socket.AF_INET, addr), name.port
        if len(addr) == 4:
            addr = bytes(10) + b"\xff\xff" + addr
        elif len(addr) != 16:
            raise OSError(errno.EAFNOSUPPORT, "")
        return socket.inet_ntop(socket.AF_INET6, addr), name.port, 0, name.scope

    def name(self) -> Name:
        """The socket's own name."""
        if self.sock is None:
            return Name(b"", 0)
        found = self.sock.getsockname()
        family = socket.AF_INET6 if self.is_v6 else socket.AF_INET
        addr = socket.inet_pton(family, found[0].partition("%")[0])
        return Name(addr, found[1], found[3] if self.is_v6 else 0)


class Server:
    """The network process of one container."""

    def __init__(self, channel: socket.socket, links: Links, *, is_guarded: bool = False) -> None:
        """Before the filter."""
        self.is_guarded: bool = is_guarded  # egress decides what leaves
        self.channel: socket.socket = channel
        self.links: Links = links
        self.held: dict[int, Held] = {}
        self.uid: int = os.geteuid()

    def run(self) -> None:
        """Serve until the sentry is gone."""
        poller = select.poll()
        poller.register(self.channel, select.POLLIN)
        poller.register(self.links.news, select.POLLIN)
        news = self.links.news.fileno()
        try:
            self._tell_links()
            while True:
                for fd, _events in poller.poll():
                    if fd == news:
                        if self.links.has_changed():
                            self._tell_links()
                        continue
                    data = self.channel.recv(wire.MESSAGE_BYTES + 1)
                    if not data:
                        return
                    try:
                        self._take(wire.decode(data))
                    except ValueError:
                        pass  # a message that no correct sentry sends
        except (BrokenPipeError, ConnectionResetError):
            return

    def _tell_links(self) -> None:
        try:
            data = self.links.snapshot()[:MAX_BYTES]
        except OSError:
            return  # the host has no room for the message; the sentry keeps the earlier state
        for at in range(0, len(data), wire.PART_BYTES):
            self.channel.send(wire.message(wire.PART, 0, data[at : at + wire.PART_BYTES]))
        self.channel.send(wire.message(wire.END, 0))

    # -- requests ----------------------------------------------------------------------------------------
    def _take(self, message: NetMessage) -> None:
        """Raises ValueError."""
        kind, ident = message.kind, message.ident
        if kind == wire.MAKE:
            self._make(ident, Making.decode(message.body))
        elif kind == wire.CLOSE:
            held = self.held.pop(ident, None)
            if held is not None:
                held.close()
        elif kind == wire.BIND:
            self._bind(ident, Name.decode(message.body))
        elif self.is_guarded and kind == wire.CONNECT:
            self._refuse(ident, OSError(errno.EACCES, ""))
        elif self.is_guarded and kind == wire.SEND:
            self._trouble(ident, OSError(errno.EACCES, ""))
        elif kind == wire.CONNECT:
            self._connect(ident, Name.decode(message.body))
        elif kind == wire.LISTEN:
            self._listen(ident, wire.decode_number(message.body, _MAX_BACKLOG))
        elif kind == wire.SEND:
            name = Name.decode(message.body[: wire.NAME_BYTES])
            self._send(ident, name, message.body[wire.NAME_BYTES :])
        elif kind == wire.OPTION:
            self._late_option(ident, OptionValue.decode(message.body))
        elif kind == wire.SET:
            self._set_option(ident, OptionValue.decode(message.body))

    def _make(self, ident: int, making: Making) -> None:
        if ident in self.held or len(self.held) >= MAX_SOCKETS:
            return  # the next request reports the failure
        held = Held(making)
        self.held[ident] = held
        protocol = 0
        if making.transport in (wire.PING, wire.RAW_ICMP):
            protocol = IPPROTO_ICMPV6 if held.is_v6 else IPPROTO_ICMP
        try:
            if protocol and self.is_guarded:
                raise OSError(errno.EACCES, "")
            # Packet filter rules about users (-m owner, skuid) use the socket's owner at this moment.
            hostsys.setfsuid(making.uid)
            try:
                sock = socket.socket(making.family, _KINDS[making.transport] | socket.SOCK_NONBLOCK, protocol)
            finally:
                hostsys.setfsuid(self.uid)
            sock.setblocking(False)
            held.sock = sock
            if making.transport == wire.UDP:
                sock.setsockopt(IPPROTO_IP, IP_PKTINFO, 1)
                if held.is_v6:
                    sock.setsockopt(IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
            for option in making.options:
                self._set(sock, option)
        except OSError as error:
            held.close()
            held.errno = error.errno or errno.EIO

    def _set(self, sock: socket.socket, option: OptionValue) -> None:
        """Raises OSError, ValueError."""
        if (option.level, option.name) not in _ALLOWED:
            raise ValueError("option")
        sock.setsockopt(option.level, option.name, option.value)

    def _find(self, ident: int) -> Held:
        """Raises OSError."""
        held = self.held.get(ident)
        if held is None:
            raise OSError(errno.ENOBUFS, "")
        if held.sock is None:
            raise OSError(held.errno, "")
        return held

    def _bind(self, ident: int, name: Name) -> None:
        try:
            held = self._find(ident)
            assert held.sock is not None
            held.sock.bind(held.address(name))
        except OSError as error:
            self._refuse(ident, error)
            return
        self._answer(ident, held, gives=held.transport != wire.TCP)

    def _connect(self, ident: int, name: Name) -> None:
        try:
            held = self._find(ident)
            assert held.sock is not None
            failed = held.sock.connect_ex(held.address(name))
            if failed and failed != errno.EINPROGRESS:
                raise OSError(failed, "")
        except OSError as error:
            self._refuse(ident, error)
            return
        self._answer(ident, held, gives=True)

    def _listen(self, ident: int, backlog: int) -> None:
        try:
            held = self._find(ident)
            assert held.sock is not None
            held.sock.listen(backlog)
        except OSError as error:
            self._refuse(ident, error)
            return
        self._answer(ident, held, gives=True)

    def _send(self, ident: int, name: Name, data: bytes) -> None:
        try:
            held = self._find(ident)
            assert held.sock is not None
            held.sock.sendto(data, held.address(name))
        except BlockingIOError:
            pass  # the queue is full: the datagram is lost, as on a network card
        except OSError as error:
            self._trouble(ident, error)

    def _late_option(self, ident: int, options: list[OptionValue]) -> None:
        """Raises ValueError."""
        try:
            self._set_all(ident, options)
        except OSError as error:
            self._trouble(ident, error)

    def _set_all(self, ident: int, options: list[OptionValue]) -> Held:
        """The socket, with these options.  Raises ValueError, OSError."""
        held = self._find(ident)
        assert held.sock is not None
        for option in options:
            self._set(held.sock, option)
        return held

    def _set_option(self, ident: int, options: list[OptionValue]) -> None:
        """Raises ValueError."""
        try:
            held = self._set_all(ident, options)
        except OSError as error:
            self._refuse(ident, error)
            return
        self._answer(ident, held, gives=held.transport != wire.TCP)

    def _trouble(self, ident: int, error: OSError) -> None:
        number = error.errno or errno.EIO
        self.channel.send(wire.message(wire.TROUBLE, ident, wire.encode_number(number)))

    def _refuse(self, ident: int, error: OSError) -> None:
        number = error.errno or errno.EIO
        self.channel.send(wire.message(wire.ANSWER, ident, Answer(number, Name(b"", 0)).encode()))

    def _answer(self, ident: int, held: Held, *, gives: bool) -> None:
        """Answer a request that has succeeded. A TCP socket that is handed over is not kept."""
        sock = held.sock
        assert sock is not None
        data = wire.message(wire.ANSWER, ident, Answer(0, held.name()).encode())
        if not gives or held.is_given:
            self.channel.send(data)
            return
        rights = array("i", [sock.fileno()])
        try:
            self.channel.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            self._refuse(ident, error)
            return
        held.is_given = True
        if held.transport == wire.TCP:
            held.close()
            del self.held[ident]
