"""The egress process at work: connections that the sentry asks for, questions about names, orders of the monitor.

One loop, no threads.  For each connection: decide by the name (or the address that was granted itself), look the name
up, judge every address, connect to the one that was judged.  A raw connection (`tcp`, `udp`) is given to the sentry at
once; of TLS the hello is read first; plain HTTP is never given away.

Of a socket that was given away a descriptor is kept: it can be cut when a rule goes, whatever the sentry does.
"""

import asyncio
import errno
import socket
import time
import traceback
from array import array
from collections import deque
from typing import Any, Final

import dns.rcode

from cloche.egress import dnswire
from cloche.egress.audit import ALLOWED, BLOCKED, Audit
from cloche.egress.clienthello import (
    ALERT_UNRECOGNIZED_NAME,
    MAX_HELLO,
    NotTls,
    is_retry_request,
    parse_client_hello,
)
from cloche.egress.hosts import address_text
from cloche.egress.httprelay import HttpRelay
from cloche.egress.names import SyntheticNames
from cloche.egress.policy import HTTP, PLAIN_TCP, TLS, Policy, PolicyError, Rule
from cloche.egress.proxy import PROXIES, read_connect, read_socks
from cloche.egress.resolver import Resolver, make_socket, receive_exactly
from cloche.wire import egress as wire
from cloche.wire import protocol
from cloche.wire.channel import Channel
from cloche.wire.descriptors import receive_with_descriptor
from cloche.wire.protocol import Message, ProtocolError

__all__ = ["Server"]

MAX_FLOWS: Final = 8192
MAX_DIALS: Final = 256  # at a time
MAX_QUESTIONS: Final = 512
_MAX_REPLIES: Final = 1024
_MAX_OUTBOX: Final = 1024  # messages that the sentry has not taken
SOFTWARE: Final = "cloche egress"
_CONNECT_S: Final = 10.0
_HELLO_S: Final = 60.0
_DNS_IDLE_S: Final = 120.0
_TRIED: Final = 4  # addresses of a name
_GRACE_S: Final = 30.0  # for what a program has sent before it closed
_DRAIN_S: Final = 2.0
_CUT_S: Final = 1.0  # for the sentry to reset what is no longer allowed
_PIECE: Final = 65536
_MAX_READS: Final = 2048  # a ClientHello in more pieces than this is none
_SYNTHETIC_TTL: Final = 60
_MESSAGES: Final = 64
_DNS_PORT: Final = 53


class Refused(Exception):
    """A connection that is not made."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number: int = number
        self.reason: str = reason


class Flow:
    """A connection of the sandbox, from the question to its end."""

    def __init__(self, ident: int, target: wire.Target) -> None:
        self.ident: int = ident
        self.target: wire.Target = target
        self.name: str = ""
        self.rule: Rule | None = None
        self.protocol: str = ""
        self.addr: bytes = b""  # that was connected to
        self.upstream: socket.socket | None = None
        self.inside: socket.socket | None = None  # our end of a pair
        self.task: asyncio.Task[None] | None = None
        self.switched: asyncio.Event = asyncio.Event()
        self.is_logged: bool = False  # as open
        self.is_proxied: bool = False  # a request of a program that uses the proxy
        self.is_cut: bool = False  # its rule is gone
        self.is_abandoned: bool = False  # the program has closed it
        self.is_given: bool = False  # the sentry moves the data, and counts it
        self.began: float = time.monotonic()
        self.received: int = 0
        self.sent: int = 0

    def transport(self) -> str:
        """As the log names it."""
        return "udp" if self.target.transport == wire.UDP else "tcp"

    def close(self) -> None:
        """Give everything back."""
        for sock in (self.upstream, self.inside):
            if sock is not None:
                sock.close()
        self.upstream = self.inside = None


class Server:
    """Everything of one sandbox."""

    def __init__(
        self,
        channel: socket.socket,
        control: socket.socket | None,
        policy: Policy,
        resolver: Resolver,
        audit: Audit,
    ) -> None:
        self.channel: socket.socket = channel
        self.control: Channel | None = Channel(control, SOFTWARE) if control is not None else None
        self.policy: Policy = policy
        self.names: SyntheticNames = SyntheticNames(policy.synthetic[0], policy.synthetic[1])
        self.resolver: Resolver = resolver
        self.audit: Audit = audit
        self.flows: dict[int, Flow] = {}
        self.questions: set[asyncio.Task[None]] = set()
        self.outbox: deque[tuple[bytes, socket.socket | None]] = deque()
        self.is_deaf: bool = False
        self.replies: dict[bytes, bytes] = {}  # to questions about granted names, both without their ids
        self.dials: asyncio.Semaphore = asyncio.Semaphore(MAX_DIALS)
        self.ended: asyncio.Event = asyncio.Event()
        self.following: list[tuple[int, int]] = []  # requests for the log: id, the last line that was sent

    async def run(self) -> None:
        """Until the sentry is gone."""
        loop = asyncio.get_running_loop()
        self.channel.setblocking(False)
        loop.add_reader(self.channel.fileno(), self._read_channel)
        if self.control is not None:
            loop.add_reader(self.control.fileno(), self._read_control)
        await self.ended.wait()
        loop.remove_reader(self.channel.fileno())
        if self.control is not None:
            loop.remove_reader(self.control.fileno())
        for flow in list(self.flows.values()):
            self._end(flow)
        self.audit.flush()
        self._tell_followers()
        if self.control is not None:
            self.control.close()

    # -- the sentry ----------------------------------------------------------------------------------------
    def _read_channel(self) -> None:
        for _turn in range(_MESSAGES):
            try:
                data, fd = receive_with_descriptor(self.channel, wire.MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data, fd = b"", -1
            if fd >= 0:
                socket.socket(fileno=fd).close()  # the sentry has none to give
            if not data:
                self.ended.set()
                return
            try:
                self._take(wire.decode(data))
            except ValueError:
                continue  # what no sentry sends

    def _take(self, message: wire.EgressMessage) -> None:
        """Raises ValueError."""
        ident = message.ident
        if message.kind == wire.CONNECT:
            target = wire.Target.decode(message.body)
            if ident in self.flows:
                raise ValueError("a number twice")
            if len(self.flows) >= MAX_FLOWS:
                self._send(wire.answer(ident, errno.ENOBUFS))
                return
            flow = Flow(ident, target)
            self.flows[ident] = flow
            flow.task = asyncio.create_task(self._serve(flow))
        elif message.kind == wire.QUERY:
            if len(self.questions) < MAX_QUESTIONS:
                task = asyncio.create_task(self._answer_datagram(ident, message.body))
                self.questions.add(task)
                task.add_done_callback(self.questions.discard)
        elif message.kind in (wire.CLOSED, wire.GONE):
            found = self.flows.get(ident)
            if found is None:
                return
            if message.kind == wire.CLOSED and found.protocol != HTTP:
                found.received, found.sent = message.counts()
            self._let_end(found)
        elif message.kind == wire.SWITCHED:
            found = self.flows.get(ident)
            if found is not None:
                found.switched.set()

    def _let_end(self, flow: Flow) -> None:
        """The program has closed it: what it sent before still goes to upstream."""
        flow.is_abandoned = True
        flow.switched.set()
        if flow.is_cut:
            self._end(flow)
            return
        if flow.task is None or flow.task.done() or flow.inside is None:
            self._end(flow)
        else:
            asyncio.get_running_loop().call_later(_GRACE_S, self._end, flow)

    def _send(self, data: bytes, sock: socket.socket | None = None) -> None:
        """To the sentry, with a copy of `sock`."""
        self.outbox.append((data, sock.dup() if sock is not None else None))
        if len(self.outbox) == 1:
            self._flush()
        elif len(self.outbox) == _MAX_OUTBOX:
            # A sentry that reads no answers is asked for no more questions.
            asyncio.get_running_loop().remove_reader(self.channel.fileno())
            self.is_deaf = True

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self.outbox:
            data, sock = self.outbox[0]
            rights = []
            if sock is not None:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [sock.fileno()]))]
            try:
                self.channel.sendmsg([data], rights)
            except BlockingIOError:
                loop.add_writer(self.channel.fileno(), self._flush)
                return
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    loop.call_later(0.05, self._flush)
                    return
                self.ended.set()
                return
            if sock is not None:
                sock.close()
            self.outbox.popleft()
        loop.remove_writer(self.channel.fileno())
        if self.is_deaf:
            self.is_deaf = False
            loop.add_reader(self.channel.fileno(), self._read_channel)

    # -- connections ---------------------------------------------------------------------------------------
    async def _serve(self, flow: Flow) -> None:
        try:
            await self._open(flow)
        except Refused as refused:
            self._log(flow, "refuse", BLOCKED, refused.reason)
            self._send(wire.answer(flow.ident, refused.number))
            self._end(flow)
            return
        except OSError as failure:
            self._log(flow, "fail", ALLOWED, failure.strerror or "no connection")
            self._send(wire.answer(flow.ident, failure.errno or errno.EHOSTUNREACH))
            self._end(flow)
            return
        if flow.is_given:
            return
        try:
            begun = b""
            if flow.protocol in PROXIES.values():
                begun = await self._serve_proxy(flow)
            if flow.protocol == TLS:
                await self._screen_tls(flow, begun)
            elif flow.protocol == HTTP:
                await self._relay_http(flow, begun)
            elif flow.protocol == PLAIN_TCP and flow.upstream is not None:
                await asyncio.get_running_loop().sock_sendall(flow.upstream, begun)
                self._log(flow, "open", ALLOWED)
                await self._give_away(flow)
            elif not flow.protocol:
                await self._serve_names(flow)
        except Refused:
            pass  # said, and written down
        except OSError:
            pass  # either side has ended it
        except Exception:
            traceback.print_exc()
        if not flow.is_given:
            self._end(flow)

    async def _open(self, flow: Flow) -> None:
        """Decide, connect and answer.  Raises Refused, OSError."""
        target = flow.target
        name = self.names.name_of(target.addr)
        if name is not None:
            flow.name = name
            verdict = self.policy.decide_name(name, target.transport, target.port)
        else:
            verdict = self.policy.decide_address(target.addr, target.transport, target.port)
        if not verdict.is_allowed:
            if target.port == _DNS_PORT and target.transport == wire.TCP:
                flow.inside = self._give_pair(flow)
                return
            if target.addr == self.names.proxy() and target.transport == wire.TCP and target.port in PROXIES:
                flow.protocol = PROXIES[target.port]
                flow.inside = self._give_pair(flow)
                return
            raise Refused(errno.EACCES, verdict.reason)
        rule = verdict.rule
        assert rule is not None
        flow.rule = rule
        flow.protocol = rule.protocol_at(target.transport, target.port)
        async with self.dials:
            upstream = await self._dial(flow, rule)
        flow.upstream = upstream
        if flow.protocol in (TLS, HTTP):
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            flow.inside = self._give_pair(flow)
        else:
            self._log(flow, "open", ALLOWED)
            flow.is_given = True
            self._send(wire.answer(flow.ident, 0), upstream)

    def _give_pair(self, flow: Flow) -> socket.socket:
        """Answer with one end of a pair; the other."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        with theirs:
            self._send(wire.answer(flow.ident, 0), theirs)
        return ours

    async def _dial(self, flow: Flow, rule: Rule) -> socket.socket:
        """A connection to an address that may be used.  Raises Refused, OSError."""
        target = flow.target
        if not flow.name:
            self._judge_own(rule, target.addr, target)
            flow.addr = target.addr
            return await self._connect(target.addr, target)
        found, problem = await self.resolver.addresses(flow.name)
        if not found:
            raise Refused(errno.EHOSTUNREACH, problem)
        objection = ""
        failure: OSError | None = None
        tried = 0
        for addr in found:
            why = self.policy.objection(rule, addr, target.transport, target.port)
            if not why and not rule.is_internal and self._is_own(addr):
                why = "an address of this host; a rule with `internal = true` would allow it"
            if why:
                objection = objection or f"{flow.name} leads to {address_text(addr)}: {why}"
                continue
            if tried == _TRIED:
                break
            tried += 1
            try:
                sock = await self._connect(addr, target)
            except OSError as error:
                failure = error
                continue
            flow.addr = addr
            return sock
        if failure is not None:
            raise failure
        raise Refused(errno.EACCES, objection)

    def _judge_own(self, rule: Rule, addr: bytes, target: wire.Target) -> None:
        """An address of this host is granted only by itself.  Raises Refused."""
        if rule.prefix < len(addr) * 8 and not rule.is_internal and self._is_own(addr):
            grant = self.policy.grant_of_address(addr, target.transport, target.port)
            if grant is None or grant.prefix < len(addr) * 8:
                raise Refused(errno.EACCES, f"{address_text(addr)} is an address of this host")

    @staticmethod
    def _is_own(addr: bytes) -> bool:
        """Whether the host would talk to itself: it then takes the same address for its own end.  Sends nothing."""
        try:
            with make_socket(addr, socket.SOCK_DGRAM) as probe:
                probe.connect((address_text(addr), 9))
                own: str = probe.getsockname()[0]
                return own == address_text(addr)
        except OSError:
            return False  # no way to there at all

    @staticmethod
    async def _connect(addr: bytes, target: wire.Target) -> socket.socket:
        """Raises OSError."""
        kind = socket.SOCK_DGRAM if target.transport == wire.UDP else socket.SOCK_STREAM
        sock = make_socket(addr, kind)
        try:
            if kind == socket.SOCK_DGRAM:
                sock.connect((address_text(addr), target.port))
                return sock
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().sock_connect(sock, (address_text(addr), target.port))
            return sock
        except TimeoutError:
            sock.close()
            raise OSError(errno.ETIMEDOUT, "no answer") from None
        except BaseException:
            sock.close()
            raise

    # -- TLS -----------------------------------------------------------------------------------------------
    async def _screen_tls(self, flow: Flow, begun: bytes) -> None:
        """Let the hello through if it asks for the right name, then give the connection away.  Raises OSError."""
        loop = asyncio.get_running_loop()
        inside, upstream = flow.inside, flow.upstream
        assert inside is not None and upstream is not None
        try:
            async with asyncio.timeout(_HELLO_S):
                pending = await self._read_hello(flow, begun, is_second=False)
                if not pending:
                    return
                self._log(flow, "open", ALLOWED)
                await loop.sock_sendall(upstream, pending)
                flow.sent += len(pending)
                first = b""
                while is_retry_request(first) is None:
                    data = await loop.sock_recv(upstream, _PIECE)
                    if not data:
                        break
                    first += data
                if first:
                    await loop.sock_sendall(inside, first)
                    flow.received += len(first)
                if is_retry_request(first):
                    pending = await self._read_hello(flow, b"", is_second=True)
                    if not pending:
                        return
                    await loop.sock_sendall(upstream, pending)
                    flow.sent += len(pending)
        except NotTls as problem:
            reason = f"{problem}; this rule lets TLS for {flow.name} through, and nothing else"
            self._log(flow, "refuse", BLOCKED, reason)
            await loop.sock_sendall(inside, ALERT_UNRECOGNIZED_NAME)
            await self._finish(inside)
            return
        except TimeoutError:
            return
        await self._give_away(flow)

    @staticmethod
    async def _finish(inside: socket.socket) -> None:
        """No more from us.  What the program still sends is read: unread, it would turn the end into a reset."""
        loop = asyncio.get_running_loop()
        inside.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(_DRAIN_S):
            while await loop.sock_recv(inside, _PIECE):
                pass

    async def _read_hello(self, flow: Flow, data: bytes, *, is_second: bool) -> bytes:
        """All bytes up to the end of a hello that may pass, and what came with them; empty: the program has ended.

        Raises NotTls, OSError.
        """
        loop = asyncio.get_running_loop()
        inside, rule = flow.inside, flow.rule
        assert inside is not None and rule is not None
        for turn in range(_MAX_READS):
            if turn or not data:
                more = await loop.sock_recv(inside, _PIECE)
                if not more:
                    if data:
                        raise NotTls("a ClientHello without an end")
                    return b""
                data += more
            hello = parse_client_hello(data, is_second=is_second)
            if hello is not None:
                if hello.name != flow.name:
                    raise NotTls(f"the server name (SNI) is {hello.name} and not {flow.name}")
                if hello.has_ech and rule.refuses_ech:
                    raise NotTls("an encrypted ClientHello (ECH), which the rule refuses")
                return data
            if len(data) > MAX_HELLO:
                break
        raise NotTls("a ClientHello that is too long")

    async def _give_away(self, flow: Flow) -> None:
        """The sentry takes the connection over; what is still in our pair goes on before.  Raises OSError."""
        loop = asyncio.get_running_loop()
        inside, upstream = flow.inside, flow.upstream
        assert inside is not None and upstream is not None
        self._send(wire.message(wire.SWITCH, flow.ident), upstream)
        while True:
            data = await loop.sock_recv(inside, _PIECE)
            if not data:
                break
            await loop.sock_sendall(upstream, data)
        await flow.switched.wait()
        inside.close()
        flow.inside = None
        flow.is_given = True
        if flow.is_abandoned:
            self._end(flow)

    # -- HTTP ----------------------------------------------------------------------------------------------
    async def _relay_http(self, flow: Flow, begun: bytes) -> None:
        inside, upstream = flow.inside, flow.upstream
        assert inside is not None and upstream is not None

        def on_request(method: str, target: str, status: int, reason: str) -> None:
            if status:
                self._log(flow, "refuse", BLOCKED, reason, request=(method, target, status))
            else:
                self._log(flow, "open", ALLOWED)
                self._log(flow, "request", ALLOWED, request=(method, target, 0))

        relay = HttpRelay(inside, upstream, flow.name, flow.target.port, on_request)
        try:
            relay.is_single = flow.is_proxied
            await relay.run(begun)
            await self._finish(inside)
        finally:
            flow.received, flow.sent = relay.received, relay.sent

    # -- the proxy ---------------------------------------------------------------------------------------------
    async def _serve_proxy(self, flow: Flow) -> bytes:
        """Learn where a program that uses the proxy wants to go, and connect; what it has sent after that.

        Raises Refused, OSError.
        """
        loop = asyncio.get_running_loop()
        inside, target = flow.inside, flow.target
        assert inside is not None
        async with asyncio.timeout(_HELLO_S):
            if flow.protocol == PROXIES[1080]:
                wanted = await read_socks(inside)
            else:
                wanted = await read_connect(inside)
        if wanted is None:
            self._log(flow, "refuse", BLOCKED, "not a request that the proxy understands")
            await self._finish(inside)
            raise ConnectionError("it has ended, or is no client of a proxy")
        transport = wire.TCP
        try:
            if isinstance(wanted.host, str):
                flow.name = wanted.host
                verdict = self.policy.decide_name(wanted.host, transport, wanted.port)
                addr = b"\0" * 4
            else:
                addr = wanted.host
                name = self.names.name_of(addr)
                flow.name = name or ""
                verdict = (
                    self.policy.decide_name(name, transport, wanted.port)
                    if name is not None
                    else self.policy.decide_address(addr, transport, wanted.port)
                )
            flow.target = wire.Target(transport, addr, wanted.port, target.pid, target.program)
            flow.protocol = ""
            rule = verdict.rule
            if rule is None:
                raise Refused(errno.EACCES, verdict.reason)
            flow.rule = rule
            if flow.name and self.names.address_of(flow.name, is_exact=not rule.is_wildcard) is None:
                raise Refused(errno.EACCES, "too many names for this sandbox")
            protocol_there = rule.protocol_at(transport, wanted.port)
            if wanted.is_request and protocol_there != HTTP:
                raise Refused(
                    errno.EACCES, f"the rule {rule.text()} is not for plain HTTP on port {wanted.port}"
                )
            async with self.dials:
                flow.upstream = await self._dial(flow, rule)
            flow.protocol = protocol_there
        except Refused as refused:
            self._log(flow, "refuse", BLOCKED, refused.reason)
            await loop.sock_sendall(inside, wanted.refusal(refused.reason))
            await self._finish(inside)
            raise
        except OSError as failure:
            self._log(flow, "fail", ALLOWED, failure.strerror or "no connection")
            await loop.sock_sendall(inside, wanted.refusal(failure.strerror or "no connection"))
            await self._finish(inside)
            raise
        flow.is_proxied = wanted.is_request
        await loop.sock_sendall(inside, wanted.consent)
        return wanted.rest

    # -- names ---------------------------------------------------------------------------------------------
    async def _serve_names(self, flow: Flow) -> None:
        """DNS over TCP.  Raises OSError."""
        loop = asyncio.get_running_loop()
        inside = flow.inside
        assert inside is not None
        while True:
            async with asyncio.timeout(_DNS_IDLE_S):
                length = int.from_bytes(await receive_exactly(inside, 2), "big")
                data = await receive_exactly(inside, length)
            reply = await self._answer_question(data, is_over_tcp=True)
            if reply is None:
                return
            await loop.sock_sendall(inside, len(reply).to_bytes(2, "big") + reply)

    async def _answer_datagram(self, ident: int, data: bytes) -> None:
        known = self.replies.get(data[2:])
        if known is not None:
            self._send(wire.message(wire.REPLY, ident, data[:2] + known))
            return
        reply = await self._answer_question(data, is_over_tcp=False)
        if reply is not None:
            self._send(wire.message(wire.REPLY, ident, reply[: wire.DNS_BYTES]))

    async def _answer_question(self, data: bytes, *, is_over_tcp: bool) -> bytes | None:
        """The answer to a question from inside; None if it is not worth any."""
        try:
            question = dnswire.parse_question(data)
        except dnswire.BadMessage as bad:
            return dnswire.failure(data, bad.rcode) if bad.rcode >= 0 else None
        name, kind = question.name, question.kind_text()
        if name == "localhost" or name.endswith(".localhost"):
            local = {"A": "127.0.0.1", "AAAA": "::1"}.get(kind)
            records = [(kind, local)] if local else None
            return dnswire.answer(question, records, _SYNTHETIC_TTL, is_over_tcp=is_over_tcp)
        if name.endswith(".in-addr.arpa"):
            return self._answer_reverse(question, is_over_tcp=is_over_tcp)
        rules = self.policy.rules_of_name(name) if name else []
        if not rules:
            if name and self.policy.is_ancestor(name):
                return dnswire.answer(question, None, 0, is_over_tcp=is_over_tcp)
            shown = name or question.qname.to_text(omit_final_dot=True)[:253]
            self.audit.record(
                "name", BLOCKED, name=shown, message=f"no rule is about {shown}; --allow {shown} would be"
            )
            return dnswire.answer(question, None, 0, is_over_tcp=is_over_tcp, rcode=dns.rcode.NXDOMAIN)
        if kind == "A":
            is_exact = any(not rule.is_wildcard for rule in rules)
            addr = self.names.address_of(name, is_exact=is_exact)
            if addr is None:
                self.audit.record("name", BLOCKED, name=name, message="too many names for this sandbox")
                return dnswire.answer(question, None, 0, is_over_tcp=is_over_tcp, rcode=dns.rcode.SERVFAIL)
            records = [("A", address_text(addr))]
            reply = dnswire.answer(question, records, _SYNTHETIC_TTL, is_over_tcp=is_over_tcp)
            return self._remembered(data, reply, is_over_tcp=is_over_tcp)
        if any(kind in rule.dns for rule in rules):
            found = await self.resolver.look_up(name, kind)
            rcode = dns.rcode.NOERROR
            if found.error:
                rcode = dns.rcode.NXDOMAIN if found.is_missing else dns.rcode.SERVFAIL
            return dnswire.answer(
                question, [(kind, text) for text in found.values], 30, is_over_tcp=is_over_tcp, rcode=rcode
            )
        reply = dnswire.answer(question, None, 0, is_over_tcp=is_over_tcp)
        return self._remembered(data, reply, is_over_tcp=is_over_tcp)

    def _remembered(self, data: bytes, reply: bytes, *, is_over_tcp: bool) -> bytes:
        """What a granted name has is the same until the rules change: programs ask again and again."""
        if not is_over_tcp:
            if len(self.replies) >= _MAX_REPLIES:
                self.replies.clear()
            self.replies[data[2:]] = reply[2:]
        return reply

    def _answer_reverse(self, question: dnswire.Question, *, is_over_tcp: bool) -> bytes:
        labels = question.name.removesuffix(".in-addr.arpa").split(".")
        if len(labels) == 4 and all(label.isdecimal() and int(label) < 256 for label in labels):
            name = self.names.name_of(bytes([int(label) for label in reversed(labels)]))
            if name is not None:
                records = [("PTR", name + ".")] if question.kind_text() == "PTR" else None
                return dnswire.answer(question, records, _SYNTHETIC_TTL, is_over_tcp=is_over_tcp)
        return dnswire.answer(question, None, 0, is_over_tcp=is_over_tcp, rcode=dns.rcode.NXDOMAIN)

    # -- the end of a connection -----------------------------------------------------------------------------
    def _log(
        self,
        flow: Flow,
        activity: str,
        verdict: str,
        message: str = "",
        request: tuple[str, str, int] | None = None,
    ) -> None:
        is_end = activity in ("close", "cut")
        if activity == "open":
            if flow.is_logged:
                return
            flow.is_logged = True
        target = flow.target
        self.audit.record(
            activity,
            verdict,
            name=flow.name,
            addr=flow.addr or (b"" if flow.name else target.addr),
            port=target.port,
            transport=flow.transport(),
            rule=flow.rule.text() if flow.rule is not None else "",
            pid=target.pid,
            program=target.program,
            message=message,
            traffic=(flow.received, flow.sent) if is_end else None,
            duration_ms=int((time.monotonic() - flow.began) * 1000) if is_end else -1,
            request=request,
        )
        self._tell_followers()

    def _end(self, flow: Flow) -> None:
        """Give it back, and write down that it was."""
        if self.flows.pop(flow.ident, None) is None:
            return
        task = flow.task
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        flow.close()
        if flow.is_logged:
            if flow.is_cut:
                self._log(flow, "cut", BLOCKED, "its rule was taken away")
            else:
                self._log(flow, "close", ALLOWED)

    # -- the monitor -----------------------------------------------------------------------------------------
    def change(self, policy: Policy) -> int:
        """Other rules from now on; how many connections were cut that they do not allow.  Raises PolicyError."""
        if policy.synthetic != self.policy.synthetic:
            raise PolicyError("synthetic addresses cannot be changed while programs know them")
        if policy.has_v6() and not self.policy.has_v6():
            raise PolicyError("the sandbox has no address of IPv6; start it with a rule for one")
        self.policy = policy
        if policy.resolvers:
            self.resolver.resolvers = policy.resolvers
        self.resolver.cache.clear()
        self.replies.clear()
        cut = 0
        for flow in list(self.flows.values()):
            if flow.rule is not None and not flow.is_cut and not self._is_still_allowed(flow):
                cut += 1
                self._cut(flow)
        self._send(wire.message(wire.CHANGED, 0))
        self.audit.record("policy", ALLOWED, message=f"{len(policy.rules)} rules, {cut} connections cut")
        self._tell_followers()
        return cut

    def _cut(self, flow: Flow) -> None:
        """Nothing passes any more: what we move ourselves at once, what the sentry moves when it has been told.

        It resets the program's end; if it takes no notice, the connection ends under it.
        """
        flow.is_cut = True
        if flow.task is not None:
            flow.task.cancel()
        self._send(wire.message(wire.CUT, flow.ident))
        if not flow.is_given and flow.upstream is not None:
            flow.upstream.close()
            flow.upstream = None
        asyncio.get_running_loop().call_later(_CUT_S, self._force_end, flow)

    def _force_end(self, flow: Flow) -> None:
        if flow.upstream is not None:
            try:
                flow.upstream.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._end(flow)

    def _is_still_allowed(self, flow: Flow) -> bool:
        target = flow.target
        if not flow.name:
            return self.policy.decide_address(target.addr, target.transport, target.port).is_allowed
        rule = self.policy.decide_name(flow.name, target.transport, target.port).rule
        if rule is None or rule.protocol_at(target.transport, target.port) != flow.protocol:
            return False
        return not flow.addr or not self.policy.objection(rule, flow.addr, target.transport, target.port)

    def _read_control(self) -> None:
        control = self.control
        assert control is not None
        try:
            messages = control.receive()
        except (ProtocolError, OSError):
            messages = None
        if messages is None:  # the monitor is gone, and everything ends
            asyncio.get_running_loop().remove_reader(control.fileno())
            return
        for message in messages:
            message.close_fds()
            if message.kind == protocol.REQUEST:
                self._order(message)
            elif message.kind == protocol.CANCEL:
                self.following = [each for each in self.following if each[0] != message.ident]

    def _tell(self, frame: bytes) -> None:
        """To the monitor, now or when it takes it."""
        control = self.control
        if control is None:
            return
        loop = asyncio.get_running_loop()
        try:
            control.send(frame)
        except ProtocolError:
            self.following = []  # it takes nothing
        if control.wants_write():
            loop.add_writer(control.fileno(), self._flush_control)

    def _flush_control(self) -> None:
        control = self.control
        if control is not None:
            control.flush()
            if not control.wants_write():
                asyncio.get_running_loop().remove_writer(control.fileno())

    def _order(self, message: Message) -> None:
        fields: dict[str, Any] = dict(message.fields)
        try:
            operation = fields.get("operation")
            if operation == "show":
                self._tell(protocol.reply(message.ident, {"policy": self.policy.to_fields()}))
            elif operation in ("set", "add", "remove"):
                changed, missing = self._changed(str(operation), fields)
                if missing:
                    raise PolicyError(f"there is no such rule: {missing}")
                cut = self.change(changed)
                self._tell(protocol.reply(message.ident, {"cut": cut, "rules": len(changed.rules)}))
            elif operation == "log":
                for _number, line in self.audit.since(0):
                    self._tell(protocol.event(message.ident, "line", {"text": line}))
                if fields.get("follow"):
                    self.following.append((message.ident, self.audit.count))
                else:
                    self._tell(protocol.reply(message.ident, {}))
            else:
                raise PolicyError("an unknown operation")
        except PolicyError as error:
            self._tell(protocol.error(message.ident, 125, str(error)))

    def _changed(self, operation: str, fields: dict[str, Any]) -> tuple[Policy, str]:
        """The policy that an order makes; or which rule is not there.  Raises PolicyError."""
        if operation == "set":
            return Policy.from_fields(fields.get("policy")), ""
        made = Policy()
        made.resolvers, made.synthetic = self.policy.resolvers, self.policy.synthetic
        made.rules = list(self.policy.rules)
        rules = fields.get("rules")
        if not isinstance(rules, list):
            raise PolicyError("no rules")
        for each in rules:
            rule = Rule.from_fields(each)
            same = [other for other in made.rules if other.to_fields() == rule.to_fields()]
            if operation == "remove":
                if not same:
                    return made, rule.text()
                made.rules = [other for other in made.rules if other not in same]
            elif not same:
                made.rules.append(rule)
        made.check()
        return made, ""

    def _tell_followers(self) -> None:
        if not self.following:
            return
        kept: list[tuple[int, int]] = []
        for ident, last in self.following:
            for _number, line in self.audit.since(last):
                self._tell(protocol.event(ident, "line", {"text": line}))
            kept.append((ident, self.audit.count))
        self.following = kept
