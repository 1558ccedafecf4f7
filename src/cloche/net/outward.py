"""Connections that leave the sandbox: TCP and UDP sockets whose other end is outside (docs/egress.md).

Egress (`cloche.egress`) decides, resolves and connects; the sentry opens no socket.  `Outside` is the sentry's side of
it and the `Gateway` of the sandbox's first network: it asks for every connection, and gets a connected socket or an
errno. It knows neither names nor rules. What it tells egress about a guest's process (pid, program) is for the log
only.

A connect(2) waits for the answer in SYN_SENT. UDP: the first datagram to an address causes a question, and waits with
a few that follow it; a refusal is remembered until egress reports that its rules have changed, and until then
sendto(2) fails. Datagrams to port 53, whatever the address, are questions that egress answers itself. An answer that it
calls KNOWN is given again to whoever asks the same, byte by byte but for the number, until the rules change.
"""

import resource
import socket
from collections import deque
from typing import Final

from cloche.abi.errno import (
    EACCES,
    EADDRNOTAVAIL,
    ECONNREFUSED,
    EINVAL,
    EIO,
    ENETUNREACH,
    ENOBUFS,
    LinuxError,
)
from cloche.abi.poll import EPOLLIN, EPOLLOUT
from cloche.abi.tcp import TCP_ESTABLISHED, TCP_SYN_SENT
from cloche.kernel.host_fds import FdWatcher
from cloche.kernel.task import Container, Kernel, Task
from cloche.mm.quota import DESCRIPTORS, KERNEL_MEMORY
from cloche.net.datagram import Datagram
from cloche.net.host_stream import HostStream
from cloche.net.inet_addr import Endpoint, is_any
from cloche.net.inet_base import Gateway, InetSocket, stack_of
from cloche.net.socket import STATE_WAKE
from cloche.net.socket_options import SOCKET_BYTES
from cloche.net.tcp import FreeTuple
from cloche.net.udp import UdpSocket
from cloche.vfs.objects import Context
from cloche.wire import egress as wire
from cloche.wire.descriptors import as_socket, receive_with_descriptor

__all__ = ["Outside", "OutwardSocket", "open_gateway"]

MAX_CONNECTIONS: Final = 4096
MAX_QUESTIONS: Final = 256  # of DNS, without an answer yet
MAX_FLOWS: Final = 1024  # pairs of a UDP socket and an address outside
MAX_FLOWS_EACH: Final = 128  # of one socket: the oldest makes room
MAX_REFUSED: Final = 1024
_MAX_KNOWN: Final = 256  # answers that are given again
_KNOWN_BYTES: Final = 512  # of the question, or of the answer
_MAX_WAITING: Final = 16  # datagrams of a flow that has no answer yet
_MAX_OUTBOX: Final = 8192
_MESSAGES: Final = 32  # taken in one turn of the loop
_DATAGRAMS: Final = 16
_DNS_PORT: Final = 53
_ID_BYTES: Final = 2  # the number of a DNS message
_UDP_BYTES: Final = 65536


class OutwardSocket(HostStream):
    """A TCP socket of a network that has a way out."""

    def __init__(self, kernel: Kernel, ctx: Context, family: int, flags: int) -> None:
        super().__init__(kernel, ctx, family, flags)
        self.outside: Outside | None = None
        self.ident: int = 0  # of the connection, or of the question about it

    def source_to(self, dest: bytes) -> bytes:
        gateway = self.gateway_to(dest)
        return gateway.source(dest) if gateway is not None else super().source_to(dest)

    def _start_connect(self, ctx: Context, end: Endpoint) -> None:
        gateway = self.gateway_to(end.addr)
        self.is_outside = False
        if not isinstance(gateway, Outside):
            super()._start_connect(ctx, end)
            return
        self.ask_outside(ctx, end, gateway, gateway.source(end.addr))

    def ask_outside(self, ctx: Context, end: Endpoint, gateway: "Outside", source: bytes) -> None:
        """Ask egress for a connection from the address `source`.  Raises LinuxError."""
        if not is_any(self.laddr) and self.laddr != source:
            raise LinuxError(EINVAL)  # bound to a loopback address, with which no packet leaves
        if not gateway.has_room():
            raise LinuxError(EADDRNOTAVAIL)
        if not self.has_port():
            self.take_shared_port(source, FreeTuple(self.stack, source, end))
        elif (source, self.lport, end.addr, end.port) in self.stack.tuples:
            raise LinuxError(EADDRNOTAVAIL)
        self.laddr = source
        if self.hold is not None:
            self.hold.addr = source
        self.raddr, self.rport = end.addr, end.port
        self.state = TCP_SYN_SENT
        self.error = 0
        self.outside = gateway
        self.ident = gateway.ask_stream(ctx, self, end)
        self._start_syn_timer()

    def answered(self, errno: int, host: socket.socket | None) -> None:
        """Egress has decided, and connected."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if host is None:
            self.ident = 0
            self.error = errno or ECONNREFUSED
            self.done()
            return
        self.set_host(host)
        self.state = TCP_ESTABLISHED
        self.syn_acked = 1
        self.stack.count("TcpActiveOpens")
        self.stack.tuples[(self.laddr, self.lport, self.raddr, self.rport)] = self
        self.attach()
        self.queue.wake(STATE_WAKE)

    def done(self) -> None:
        if self.host is None and self.ident:
            self._give_up()
        super().done()

    def _give_up(self) -> None:
        """Withdraw the question: no call waits for the answer any more."""
        ident, outside = self.ident, self.outside
        self.ident = 0
        if outside is not None and ident:
            outside.drop_stream(ident, self)

    def got_reset(self) -> None:
        super().got_reset()
        self.close_host(is_reset=True)

    def host_closed(self) -> None:
        ident, outside = self.ident, self.outside
        self.ident = 0
        if outside is not None and ident:
            outside.end_stream(ident, self)


class Flow(FdWatcher):
    """A UDP socket of the sandbox and one address outside that it has sent to."""

    def __init__(self, outside: "Outside", ident: int, sock: UdpSocket, dest: bytes, port: int) -> None:
        self.outside: Outside = outside
        self.ident: int = ident
        self.sock: UdpSocket = sock
        self.dest: bytes = dest
        self.port: int = port
        self.source: bytes = b""
        self.waiting: list[bytes] = []
        self.host: socket.socket | None = None
        self.fd: int = -1
        self.token: int = -1
        self.received: int = 0
        self.sent: int = 0

    def open(self, host: socket.socket) -> None:
        """Egress has allowed it."""
        host.setblocking(False)
        self.host = host
        self.fd = host.fileno()
        self.token = self.outside.kernel.fds.watch(self.fd, EPOLLIN, self)
        waiting, self.waiting = self.waiting, []
        for data in waiting:
            self.send(data)

    def send(self, data: bytes) -> None:
        """Send a datagram through the host's socket; queue it until egress has answered."""
        host = self.host
        if host is None:
            if len(self.waiting) < _MAX_WAITING:
                self.waiting.append(data)
            return
        try:
            host.send(data)
            self.sent += len(data)
        except BlockingIOError:
            pass  # the host's queue is full: the datagram is lost
        except OSError as error:
            self._failed(error.errno or EIO)

    def fd_ready(self, token: int, events: int) -> None:
        """Datagrams have come, or an error."""
        host = self.host
        if host is None:
            return
        for _turn in range(_DATAGRAMS):
            try:
                data = host.recv(_UDP_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error.errno or EIO)
                return
            self.received += len(data)
            self.outside.deliver(self.sock, data, self.source, self.dest, self.port)

    def _failed(self, errno: int) -> None:
        """An ICMP error has come to the host's socket."""
        sock = self.sock
        if sock.is_connected and sock.raddr == self.dest and sock.rport == self.port:
            sock.error = errno
            sock.queue.wake(STATE_WAKE)

    def close(self) -> None:
        """Close the host's socket."""
        host = self.host
        if host is not None:
            self.host = None
            self.outside.kernel.fds.unwatch(self.fd, self.token)
            host.close()


class Question:
    """A DNS message that has no answer yet."""

    def __init__(self, sock: UdpSocket, text: bytes, source: bytes, dest: bytes, port: int) -> None:
        self.sock: UdpSocket = sock
        self.text: bytes = text  # what is asked, without its number
        self.source: bytes = source
        self.dest: bytes = dest
        self.port: int = port


class Outside(Gateway, FdWatcher):
    """The sentry's side of egress."""

    def __init__(self, kernel: Kernel, channel: socket.socket, source4: bytes, source6: bytes) -> None:
        self.kernel: Kernel = kernel
        self.channel: socket.socket = channel
        self.source4: bytes = source4
        self.source6: bytes = source6  # empty: no address of IPv6 is granted
        self.next_ident: int = 1
        self.streams: dict[int, OutwardSocket] = {}
        self.flows: dict[int, Flow] = {}
        self.by_socket: dict[UdpSocket, dict[tuple[bytes, int], Flow]] = {}
        self.questions: dict[int, Question] = {}
        self.refused: dict[tuple[bytes, int], int] = {}  # refused destinations of UDP: errno
        self.known: dict[bytes, bytes] = {}  # answers by question, both without their numbers
        self.outbox: deque[bytes] = deque()
        self.is_closed: bool = False
        self.pid: int = 0  # of the sender, for the log
        self.program: bytes = b""
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.limit: int = min(MAX_CONNECTIONS, max(descriptors // 4, 1))
        channel.setblocking(False)
        self.token: int = kernel.fds.watch(channel.fileno(), EPOLLIN, self)

    def source(self, dest: bytes) -> bytes:
        if len(dest) == 4:
            return self.source4
        if not self.source6:
            raise LinuxError(ENETUNREACH)
        return self.source6

    def has_room(self) -> bool:
        """Whether another connection may be asked for."""
        return len(self.streams) < self.limit and KERNEL_MEMORY.has_room(SOCKET_BYTES) and not self.is_closed

    # -- to egress -----------------------------------------------------------------------------------------
    def _new_ident(self) -> int:
        ident = self.next_ident
        self.next_ident = ident + 1
        return ident

    def _send(self, message: bytes) -> None:
        if self.is_closed:
            return
        if not self.outbox:
            try:
                self.channel.send(message)
                return
            except BlockingIOError:
                self.kernel.fds.rewatch(self.channel.fileno(), self.token, EPOLLIN | EPOLLOUT)
            except OSError:
                self._ended()
                return
        if len(self.outbox) < _MAX_OUTBOX:
            self.outbox.append(message)

    def _flush(self) -> None:
        while self.outbox:
            try:
                self.channel.send(self.outbox[0])
            except BlockingIOError:
                return
            except OSError:
                self._ended()
                return
            self.outbox.popleft()
        self.kernel.fds.rewatch(self.channel.fileno(), self.token, EPOLLIN)

    def note(self, ctx: Context) -> None:
        self.pid, self.program = 0, b""
        if isinstance(ctx, Task):
            self.pid, self.program = ctx.group.own_tgid, ctx.comm

    def ask_stream(self, ctx: Context, sock: OutwardSocket, end: Endpoint) -> int:
        """Ask for a TCP connection. Returns its number."""
        ident = self._new_ident()
        self.streams[ident] = sock
        self.note(ctx)
        target = wire.Target(wire.TCP, end.addr, end.port, self.pid, self.program).encode()
        self._send(wire.message(wire.CONNECT, ident, target))
        return ident

    def drop_stream(self, ident: int, sock: OutwardSocket) -> None:
        """Withdraw the question about a connection that is not established yet."""
        if self.streams.get(ident) is sock:
            del self.streams[ident]
            self._send(wire.message(wire.GONE, ident))

    def end_stream(self, ident: int, sock: OutwardSocket) -> None:
        """Tell egress that the host's socket of a connection was closed."""
        if self.streams.get(ident) is sock:
            del self.streams[ident]
            self._send(wire.closed(ident, sock.bytes_received, sock.bytes_sent))

    def send_datagram(self, sock: InetSocket, data: bytes, source: bytes, dest: bytes, port: int) -> None:
        if not isinstance(sock, UdpSocket) or self.is_closed:
            raise LinuxError(ENETUNREACH)
        self.source(dest)
        if port == _DNS_PORT:
            text = data[_ID_BYTES:]
            known = self.known.get(text)
            if known is not None:
                self.deliver(sock, data[:_ID_BYTES] + known, source, dest, port)
            elif len(data) <= wire.DNS_BYTES and len(self.questions) < MAX_QUESTIONS:
                ident = self._new_ident()
                self.questions[ident] = Question(sock, text, source, dest, port)
                self._send(wire.message(wire.QUERY, ident, data))
            return
        errno = self.refused.get((dest, port), 0)
        if errno:
            raise LinuxError(errno)
        mine = self.by_socket.get(sock)
        flow = mine.get((dest, port)) if mine is not None else None
        if flow is None:
            flow = self._new_flow(sock, source, dest, port)
        flow.send(data)

    def _new_flow(self, sock: UdpSocket, source: bytes, dest: bytes, port: int) -> Flow:
        mine = self.by_socket.setdefault(sock, {})
        if len(mine) >= MAX_FLOWS_EACH:
            self._end_flow(mine[next(iter(mine))])
        if len(self.flows) >= MAX_FLOWS or not KERNEL_MEMORY.has_room(SOCKET_BYTES):
            raise LinuxError(ENOBUFS)
        ident = self._new_ident()
        flow = Flow(self, ident, sock, dest, port)
        flow.source = source
        self.flows[ident] = flow
        # Again: making room may have removed the socket's last flow.
        self.by_socket.setdefault(sock, {})[(dest, port)] = flow
        target = wire.Target(wire.UDP, dest, port, self.pid, self.program).encode()
        self._send(wire.message(wire.CONNECT, ident, target))
        return flow

    def _end_flow(self, flow: Flow) -> None:
        had_answer = flow.host is not None
        flow.close()
        self.flows.pop(flow.ident, None)
        mine = self.by_socket.get(flow.sock)
        if mine is not None:
            mine.pop((flow.dest, flow.port), None)
            if not mine:
                del self.by_socket[flow.sock]
        if had_answer:
            self._send(wire.closed(flow.ident, flow.received, flow.sent))
        else:
            self._send(wire.message(wire.GONE, flow.ident))

    def forget(self, sock: InetSocket) -> None:
        if isinstance(sock, UdpSocket):
            for flow in list(self.by_socket.get(sock, {}).values()):
                self._end_flow(flow)

    # -- from egress ---------------------------------------------------------------------------------------
    def fd_ready(self, token: int, events: int) -> None:
        """Answers, or the end of egress, with which the keeper ends everything."""
        if events & EPOLLOUT:
            self._flush()
        if not events & ~EPOLLOUT:
            return
        for _turn in range(_MESSAGES):
            if self.is_closed:
                return
            try:
                data, fd = receive_with_descriptor(self.channel, wire.MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data, fd = b"", -1
            if not data:
                self._ended()
                return
            self._take(data, fd)

    def _ended(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.outbox.clear()
            self.kernel.fds.unwatch(self.channel.fileno(), self.token)
            self.channel.close()

    def _take(self, data: bytes, fd: int) -> None:
        """Process one message; a descriptor that no question takes is closed."""
        host = as_socket(fd)
        try:
            message = wire.decode(data)
            if message.kind == wire.ANSWER:
                host = self._answer(message.ident, message.errno(), host)
            elif message.kind == wire.REPLY:
                self._reply(message.ident, message.body, is_known=False)
            elif message.kind == wire.KNOWN:
                self._reply(message.ident, message.body, is_known=True)
            elif message.kind == wire.SWITCH:
                host = self._switch(message.ident, host)
            elif message.kind == wire.CUT:
                self._cut(message.ident)
            elif message.kind == wire.CHANGED:
                self.refused.clear()
                self.known.clear()
        except ValueError:
            pass  # no message of egress: it is ignored
        if host is not None:
            host.close()

    def _answer(self, ident: int, errno: int, host: socket.socket | None) -> socket.socket | None:
        """Hand an answer to its question. Returns the descriptor, unless that has taken it."""
        if errno == 0 and host is None:
            errno = EIO
        if host is not None and not DESCRIPTORS.has_spare(host.fileno()):
            errno = ENOBUFS
        stream = self.streams.get(ident)
        if host is not None and host.type != (
            socket.SOCK_STREAM if stream is not None else socket.SOCK_DGRAM
        ):
            errno = EIO
        if stream is not None:
            if stream.state != TCP_SYN_SENT or stream.host is not None:
                return host
            if errno:
                del self.streams[ident]
                if host is not None:
                    self._send(wire.closed(ident, 0, 0))
                stream.ident = 0
                stream.answered(errno, None)
                return host
            stream.answered(0, host)
            return None
        flow = self.flows.get(ident)
        if flow is None:
            return host
        if flow.host is not None:
            return host
        if errno == 0 and host is not None:
            flow.open(host)
            return None
        self._refuse(flow, errno)
        return host

    def _refuse(self, flow: Flow, errno: int) -> None:
        if errno == EACCES:
            if len(self.refused) >= MAX_REFUSED:
                self.refused.clear()
            self.refused[(flow.dest, flow.port)] = errno
        sock = flow.sock
        is_theirs = sock.is_connected and sock.raddr == flow.dest and sock.rport == flow.port
        flow.waiting.clear()
        self._end_flow(flow)
        if is_theirs:
            sock.error = errno
            sock.queue.wake(STATE_WAKE)

    def _reply(self, ident: int, data: bytes, *, is_known: bool) -> None:
        question = self.questions.pop(ident, None)
        if question is not None:
            if is_known and max(len(question.text), len(data)) <= _KNOWN_BYTES:
                if len(self.known) >= _MAX_KNOWN:
                    self.known.clear()
                self.known[question.text] = data[_ID_BYTES:]
            self.deliver(question.sock, data, question.source, question.dest, question.port)

    def deliver(self, sock: UdpSocket, data: bytes, source: bytes, dest: bytes, port: int) -> None:
        """Deliver a datagram from outside."""
        if sock.is_released or not sock.lport:
            return
        if sock.is_connected and (sock.raddr != dest or sock.rport != port):
            return
        if KERNEL_MEMORY.has_room(len(data)):
            sock.deliver(Datagram(data, dest, port, source, sock.lport))

    def _switch(self, ident: int, host: socket.socket | None) -> socket.socket | None:
        stream = self.streams.get(ident)
        if stream is None or host is None or stream.host is None or host.type != socket.SOCK_STREAM:
            return host
        stream.follow(host)
        self._send(wire.message(wire.SWITCHED, ident))
        return None

    def _cut(self, ident: int) -> None:
        """End a connection or flow: the rule that allowed it was removed."""
        stream = self.streams.get(ident)
        if stream is not None:
            stream.got_reset()
        flow = self.flows.get(ident)
        if flow is not None:
            self._end_flow(flow)


def open_gateway(container: Container, channel: socket.socket, source4: bytes, source6: bytes) -> Outside:
    """Give a container's first network a way out through egress."""
    stack = stack_of(container)
    made = Outside(container.kernel, channel, source4, source6)
    # An address of its own besides loopback: only with one do programs look up addresses of other hosts
    # (AI_ADDRCONFIG).
    stack.lo.addresses4[source4] = 32
    if source6:
        stack.lo.addresses6[source6] = 128
    stack.gateway = made
    return made
