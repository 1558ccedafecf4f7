"""The egress process at work: connections that the sentry asks for, questions about names, orders of the monitor.

One loop, no threads. For each connection: decide by the name (or by an address that a rule grants), look the name up,
check every address, connect to the one that was checked (`dial`). A raw connection (`tcp`, `udp`) is given to the
sentry at once; with TLS the hello is read first (`tlsscreen`); plain HTTP and inspected TLS stay here (`httprelay`,
`http2relay`).

Of a socket that was given away a descriptor is kept, so that the connection can be cut when a rule is removed, even
if the sentry does not cooperate.
"""

import asyncio
import contextlib
import errno
import socket
import time
import traceback
from array import array
from collections import deque
from typing import TYPE_CHECKING, Final

from cloche.egress.approvals import Approvals
from cloche.egress.audit import ALLOWED, BLOCKED, Audit
from cloche.egress.bodysecrets import Holding
from cloche.egress.clienthello import NotTls
from cloche.egress.dial import CONNECT_S, Dialer
from cloche.egress.flow import Flow, Refused
from cloche.egress.guard import Guard
from cloche.egress.httprelay import HttpRelay, RequestLog
from cloche.egress.names import SyntheticNames
from cloche.egress.nameserver import NameServer
from cloche.egress.orders import Orders
from cloche.egress.policy import HTTP, HTTPS, PLAIN_TCP, TLS, Policy, PolicyError, Rule, Verdict
from cloche.egress.proxy import PROXIES, read_connect, read_socks
from cloche.egress.resolver import Resolver
from cloche.egress.sockets import OwnAddress, Sockets, is_connected, stands
from cloche.egress.streams import PlainStream
from cloche.egress.tlsscreen import HELLO_S, finish, refuse_tls, screen_tls
from cloche.wire import egress as wire
from cloche.wire.channel import Channel
from cloche.wire.descriptors import receive_with_descriptor
from cloche.wire.wording import counted

if TYPE_CHECKING:
    from cloche.egress.inspection import Inspector

__all__ = ["Server"]

MAX_FLOWS: Final = 8192
MAX_QUESTIONS: Final = 512
_MAX_OUTBOX: Final = 1024  # queued messages to the sentry
SOFTWARE: Final = "cloche egress"
_GRACE_S: Final = 30.0  # for data that a program has sent before it closed
_CUT_S: Final = 1.0  # for the sentry to reset a connection that is not allowed any more
_PIECE: Final = 65536
_MESSAGES: Final = 64
_MAX_DECIDED: Final = 4096
_DNS_PORT: Final = 53
_LOOPBACK6: Final = bytes(15) + b"\1"


def _rights(sock: socket.socket | None) -> "list[tuple[int, int, array[int]]]":
    return [] if sock is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [sock.fileno()]))]


class Server:
    """The egress of one sandbox."""

    def __init__(
        self,
        channel: socket.socket,
        control: socket.socket | None,
        policy: Policy,
        resolver: Resolver,
        sockets: Sockets,
        audit: Audit,
        inspector: "Inspector | None" = None,
    ) -> None:
        """`inspector`: given if TLS was to be inspected at the start; it cannot be made later."""
        self.channel: socket.socket = channel
        self.policy: Policy = policy
        self.inspector: Inspector | None = inspector
        self.approvals: Approvals = Approvals()
        self.holding: Holding = Holding()
        self.names: SyntheticNames = SyntheticNames(policy.synthetic[0], policy.synthetic[1])
        self.resolver: Resolver = resolver
        self.audit: Audit = audit
        self.sockets: Sockets = sockets
        self.dialer: Dialer = Dialer(policy, resolver, sockets)
        self.nameserver: NameServer = NameServer(policy, self.names, resolver, audit)
        self.orders: Orders = Orders(
            Channel(control, SOFTWARE) if control is not None else None,
            audit,
            self.approvals,
            lambda: self.policy,
            self.change,
        )
        self.flows: dict[int, Flow] = {}
        self.questions: set[asyncio.Task[None]] = set()
        self.outbox: deque[tuple[bytes, socket.socket | None]] = deque()
        # Rules that allow connections to an address, transport and port; until the rules change
        self.decided: dict[tuple[bytes, int, int], Rule] = {}
        self.texts: dict[Rule, str] = {}  # those of rules in the log
        self.is_deaf: bool = False
        self.ended: asyncio.Event = asyncio.Event()

    async def run(self) -> None:
        """Serve until the sentry is gone."""
        loop = asyncio.get_running_loop()
        self.channel.setblocking(False)
        loop.add_reader(self.channel.fileno(), self._read_channel)
        self.sockets.start()
        self.orders.start()
        await self.ended.wait()
        loop.remove_reader(self.channel.fileno())
        for flow in list(self.flows.values()):
            self._end(flow)
        self.sockets.close()
        self.audit.flush()
        self.orders.close()

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
                socket.socket(fileno=fd).close()  # a correct sentry sends none
            if not data:
                self.ended.set()
                return
            try:
                self._take(wire.decode(data))
            except ValueError:
                continue  # a message that no correct sentry sends

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
            if not self._begin(flow):
                flow.task = asyncio.create_task(self._serve(flow))
        elif message.kind == wire.QUERY:
            known = self.nameserver.known_answer(message.body)
            if known is not None:
                self._send(wire.message(wire.KNOWN, ident, known))
            elif len(self.questions) < MAX_QUESTIONS:
                task = asyncio.create_task(self._answer_datagram(ident, message.body))
                self.questions.add(task)
                task.add_done_callback(self.questions.discard)
        elif message.kind in (wire.CLOSED, wire.GONE):
            found = self.flows.get(ident)
            if found is None:
                return
            if message.kind == wire.CLOSED and found.protocol not in (HTTP, HTTPS):
                found.received, found.sent = message.counts()
            # Later in this turn: a program that closes one connection often waits for the next, whose question has come
            # along.
            asyncio.get_running_loop().call_soon(self._let_end, found)
        elif message.kind == wire.SWITCHED:
            found = self.flows.get(ident)
            if found is not None:
                found.switched.set()

    async def _answer_datagram(self, ident: int, data: bytes) -> None:
        reply = await self.nameserver.answer(data, is_over_tcp=False)
        if reply is not None:
            self._send(wire.message(wire.REPLY, ident, reply[: wire.DNS_BYTES]))

    def _let_end(self, flow: Flow) -> None:
        """The program has closed the connection: data that it has sent before is still relayed."""
        flow.is_abandoned = True
        if flow in self.dialer.begun and flow.task is None:
            return  # the connector's answer is on its way, and ends it (`_begun`)
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
        if not self.outbox:
            try:
                self.channel.sendmsg([data], _rights(sock))
                return
            except OSError:
                pass  # it takes nothing now, or is gone: as for those that wait
        self.outbox.append((data, sock.dup() if sock is not None else None))
        if len(self.outbox) == 1:
            self._flush()
        elif len(self.outbox) == _MAX_OUTBOX:
            # No more messages are read from a sentry that does not read answers.
            asyncio.get_running_loop().remove_reader(self.channel.fileno())
            self.is_deaf = True

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self.outbox:
            data, sock = self.outbox[0]
            try:
                self.channel.sendmsg([data], _rights(sock))
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
    def _begin(self, flow: Flow) -> bool:
        """Open a connection without a task, as far as nothing has to be waited for; False: `_serve` has to do it.

        A name that was looked up, and a server that is near, are the usual case.
        """
        target = flow.target
        key = (target.addr, target.transport, target.port)
        if self.names.real_names(target.addr):
            return False  # which name is meant changes with what programs are told
        name = self.names.name_of(target.addr)
        rule = self.decided.get(key)
        if rule is None:
            rule = (
                self.policy.decide_name(name, target.transport, target.port)
                if name is not None
                else self.policy.decide_address(target.addr, target.transport, target.port)
            ).rule
            if rule is None:
                return False
            if len(self.decided) >= _MAX_DECIDED:
                self.decided.clear()
            self.decided[key] = rule
        flow.name = name or ""
        flow.rule = rule
        flow.protocol = rule.protocol_at(target.transport, target.port)

        def answered(outcome: "socket.socket | OwnAddress | OSError", is_given: bool) -> None:
            self._begun(flow, outcome, is_given=is_given)

        try:
            is_raw = flow.protocol not in (TLS, HTTP, HTTPS)
            return self.dialer.begin(flow, rule, answered, is_raw=is_raw)
        except OSError:
            return False

    def _begun(self, flow: Flow, outcome: "socket.socket | OwnAddress | OSError", *, is_given: bool) -> None:
        """The connector has answered `_begin`; `is_given`: it has given the socket to the sentry."""
        if not isinstance(outcome, Exception) and not is_given and not self._is_over(flow):
            if flow.target.transport == wire.TCP and not is_connected(outcome):
                flow.task = asyncio.create_task(self._serve(flow, outcome))
                return  # and stays in `begun`
        self.dialer.begun.discard(flow)
        if isinstance(outcome, Exception):
            flow.tried[flow.addr], flow.addr = outcome, b""
            if flow.is_abandoned:
                self._end(flow)
            elif not self._is_over(flow):
                flow.task = asyncio.create_task(self._serve(flow))
        elif is_given:
            self._note_given(flow, outcome)
        elif self._is_over(flow):
            outcome.close()
            if flow.is_abandoned:
                self._end(flow)
        else:
            flow.upstream = outcome
            try:
                self._answer_opened(flow)
            except OSError as failure:
                self._answer_failed(flow, failure)
                return
            if not flow.is_given:
                flow.task = asyncio.create_task(self._serve_opened(flow))

    def _is_over(self, flow: Flow) -> bool:
        """Whether a connection that was asked for is not wanted any more, or not allowed."""
        return self.flows.get(flow.ident) is not flow or flow.is_cut or flow.is_abandoned

    def _note_given(self, flow: Flow, sock: socket.socket) -> None:
        """The sentry has got the connection's socket from the connector."""
        flow.upstream, flow.is_given = sock, True
        self._log(flow, "open", ALLOWED)
        is_known = self.flows.get(flow.ident) is flow
        if flow.is_cut or not is_known:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # a hostile sentry may have kept it
        if not is_known:
            flow.close()
        elif flow.is_abandoned:
            self._end(flow)  # its end has come before

    async def _serve(self, flow: Flow, connecting: socket.socket | None = None) -> None:
        """`connecting`: the first address's socket, on its way."""
        try:
            if connecting is not None:
                await self._await_connected(flow, connecting)
            await self._open(flow)
        except Refused as refused:
            self._log(flow, "refuse", BLOCKED, refused.reason)
            self._send(wire.answer(flow.ident, refused.number))
            self._end(flow)
            return
        except OSError as failure:
            self._answer_failed(flow, failure)
            return
        if not flow.is_given:
            await self._serve_opened(flow)

    def _answer_failed(self, flow: Flow, failure: OSError) -> None:
        self._log(flow, "fail", ALLOWED, failure.strerror or "no connection")
        self._send(wire.answer(flow.ident, failure.errno or errno.EHOSTUNREACH))
        self._end(flow)

    async def _await_connected(self, flow: Flow, sock: socket.socket) -> None:
        """Wait for the socket that `_begin` has asked for: it becomes the connection's, or is noted as tried."""
        problem: OSError
        try:
            async with asyncio.timeout(CONNECT_S):
                await stands(sock)
            flow.upstream = sock
            return
        except TimeoutError:
            problem = OSError(errno.ETIMEDOUT, "no answer")
        except OSError as failure:
            problem = failure
        finally:
            self.dialer.begun.discard(flow)
            if flow.upstream is None:
                sock.close()
        flow.tried[flow.addr], flow.addr = problem, b""

    async def _serve_opened(self, flow: Flow) -> None:
        try:
            begun = b""
            if flow.protocol in PROXIES.values():
                begun = await self._serve_proxy(flow)
            if flow.protocol == TLS:
                await self._screen_tls(flow, begun)
            elif flow.protocol == HTTP:
                await self._relay_http(flow, begun)
            elif flow.protocol == HTTPS:
                await self._inspect(flow, begun)
            elif flow.protocol == PLAIN_TCP and flow.upstream is not None:
                await asyncio.get_running_loop().sock_sendall(flow.upstream, begun)
                self._log(flow, "open", ALLOWED)
                await self._give_away(flow)
            elif not flow.protocol:
                assert flow.inside is not None
                await self.nameserver.serve_stream(flow.inside)
        except Refused:
            pass  # answered and logged already
        except OSError:
            pass  # either side has ended it
        except Exception:
            traceback.print_exc()
        if not flow.is_given:
            self._end(flow)

    async def _open(self, flow: Flow) -> None:
        """Decide, connect and answer.  Raises Refused, OSError."""
        target = flow.target
        if flow.upstream is not None:
            self._answer_opened(flow)  # `_begin` has decided
            return
        name = self.names.name_of(target.addr)
        if name is not None:
            flow.name = name
            verdict = self.policy.decide_name(name, target.transport, target.port)
        else:
            verdict = self._decide_real(flow) or self.policy.decide_address(
                target.addr, target.transport, target.port
            )
        if not verdict.is_allowed:
            if target.port == _DNS_PORT and target.transport == wire.TCP:
                flow.inside = self._give_pair(flow)
                return
            if target.addr == self.names.proxy() and target.transport == wire.TCP and target.port in PROXIES:
                flow.protocol = PROXIES[target.port]
                flow.inside = self._give_pair(flow)
                return
            # Loopback answers as if no server were there: programs use it to test whether a server runs.
            is_loopback = target.addr[0] == 127 if len(target.addr) == 4 else target.addr == _LOOPBACK6
            raise Refused(errno.ECONNREFUSED if is_loopback else errno.EACCES, verdict.reason)
        rule = verdict.rule
        assert rule is not None
        flow.rule = rule
        flow.protocol = rule.protocol_at(target.transport, target.port)
        flow.upstream = await self.dialer.dial(flow, rule)
        self._answer_opened(flow)

    def _answer_opened(self, flow: Flow) -> None:
        """The connection stands: give it to the sentry, or a pair of which egress keeps the other end.

        Raises OSError.
        """
        upstream = flow.upstream
        assert upstream is not None
        if flow.protocol in (TLS, HTTP, HTTPS):
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            flow.inside = self._give_pair(flow)
            return
        flow.is_given = True
        self._send(wire.answer(flow.ident, 0), upstream)
        self._log(flow, "open", ALLOWED)  # in the same turn: nothing can come between

    def _decide_real(self, flow: Flow) -> Verdict | None:
        """Whether an address that was told for a name may be connected to for it; None: no such address.

        If several names share it, the latest one is taken; TLS may choose another of them.
        """
        target = flow.target
        found: Verdict | None = None
        protocol = ""
        for name in self.names.real_names(target.addr):
            verdict = self.policy.decide_name(name, target.transport, target.port)
            rule = verdict.rule
            if rule is None or not rule.is_real:
                continue
            if found is None:
                found, flow.name, flow.is_fixed = verdict, name, True
                protocol = rule.protocol_at(target.transport, target.port)
            elif rule.protocol_at(target.transport, target.port) == protocol:
                flow.candidates[name] = rule
        return found

    def _give_pair(self, flow: Flow) -> socket.socket:
        """Answer with one end of a pair; returns the other end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        with theirs:
            self._send(wire.answer(flow.ident, 0), theirs)
        return ours

    # -- TLS -----------------------------------------------------------------------------------------------
    async def _screen_tls(self, flow: Flow, begun: bytes) -> None:
        """Let the hello through if it asks for the right name, then give the connection away.  Raises OSError."""
        assert flow.inside is not None
        try:
            if not await screen_tls(flow, begun, lambda: self._log(flow, "open", ALLOWED)):
                return
        except NotTls as problem:
            reason = f"{problem}; this rule lets TLS for {flow.name} through, and nothing else"
            self._log(flow, "refuse", BLOCKED, reason)
            await refuse_tls(flow.inside)
            return
        except TimeoutError:
            return
        await self._give_away(flow)

    async def _inspect(self, flow: Flow, begun: bytes) -> None:
        """Terminate TLS, and check every request. Raises OSError."""
        inspector = self.inspector
        assert inspector is not None
        try:
            await inspector.serve(flow, begun, self._guard(flow), self._request_log(flow))
        except NotTls as problem:
            self._log(flow, "refuse", BLOCKED, str(problem))

    async def _give_away(self, flow: Flow) -> None:
        """Hand the connection over to the sentry, after the data that is still in the pair was relayed. Raises
        OSError.
        """
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
        relay = HttpRelay(
            PlainStream(inside), PlainStream(upstream), self._guard(flow), b"http", self._request_log(flow)
        )
        try:
            relay.is_single = flow.is_proxied
            await relay.run(begun)
            await finish(inside)
        finally:
            flow.received, flow.sent = relay.received, relay.sent

    def _guard(self, flow: Flow) -> Guard:
        return Guard(flow, self.approvals, self.policy.ask_s, self.holding)

    def _request_log(self, flow: Flow) -> RequestLog:
        def on_request(method: str, target: str, status: int, reason: str) -> None:
            if reason:
                self._log(flow, "refuse", BLOCKED, reason, request=(method, target, status))
            elif status:
                self._log(flow, "request", ALLOWED, request=(method, target, status))
            else:
                self._log(flow, "open", ALLOWED)

        return on_request

    # -- the proxy ---------------------------------------------------------------------------------------------
    async def _serve_proxy(self, flow: Flow) -> bytes:
        """Read the destination that a program asks the proxy for, and connect.

        Returns the bytes after the request. Raises Refused, OSError.
        """
        loop = asyncio.get_running_loop()
        inside, target = flow.inside, flow.target
        assert inside is not None
        async with asyncio.timeout(HELLO_S):
            if flow.protocol == PROXIES[1080]:
                wanted = await read_socks(inside)
            else:
                wanted = await read_connect(inside)
        if wanted is None:
            self._log(flow, "refuse", BLOCKED, "not a request that the proxy understands")
            await finish(inside)
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
            flow.upstream = await self.dialer.dial(flow, rule)
            flow.protocol = protocol_there
        except Refused as refused:
            self._log(flow, "refuse", BLOCKED, refused.reason)
            await loop.sock_sendall(inside, wanted.refusal(refused.reason))
            await finish(inside)
            raise
        except OSError as failure:
            self._log(flow, "fail", ALLOWED, failure.strerror or "no connection")
            await loop.sock_sendall(inside, wanted.refusal(failure.strerror or "no connection"))
            await finish(inside)
            raise
        flow.is_proxied = wanted.is_request
        await loop.sock_sendall(inside, wanted.consent)
        return wanted.rest

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
            rule=self._text(flow.rule) if flow.rule is not None else "",
            pid=target.pid,
            program=target.program,
            message=message,
            traffic=(flow.received, flow.sent) if is_end else None,
            duration_ms=int((time.monotonic() - flow.began) * 1000) if is_end else -1,
            request=request,
        )
        self.orders.tell_followers()

    def _text(self, rule: Rule) -> str:
        """The rule as the log has it; the text is kept until the rules change."""
        found = self.texts.get(rule)
        if found is None:
            if len(self.texts) >= _MAX_DECIDED:
                self.texts.clear()
            found = self.texts[rule] = rule.text()
        return found

    def _end(self, flow: Flow) -> None:
        """Close the connection and log its end."""
        if self.flows.pop(flow.ident, None) is None:
            return
        self.dialer.begun.discard(flow)
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
        """Put other rules in force. Returns how many connections were cut that they do not allow.
        Raises PolicyError.
        """
        if policy.synthetic != self.policy.synthetic:
            raise PolicyError("synthetic addresses cannot be changed while programs know them")
        if policy.has_v6() and not self.policy.has_v6():
            raise PolicyError("the sandbox has no address of IPv6; start it with a rule for one")
        if policy.needs_authority() and self.inspector is None:
            raise PolicyError(
                "the sandbox was started without inspection; start it with a rule that inspects"
            )
        self.policy = self.dialer.policy = self.nameserver.policy = policy
        if self.inspector is not None:
            self.inspector.trust(policy.authorities)
        if policy.resolvers:
            self.resolver.resolvers = policy.resolvers
        self.resolver.cache.clear()
        self.decided.clear()
        self.texts.clear()
        self.nameserver.forget()
        self.approvals.forget()
        cut = 0
        for flow in list(self.flows.values()):
            if flow.rule is not None and not flow.is_cut and not self._is_still_allowed(flow):
                cut += 1
                self._cut(flow)
        self._send(wire.message(wire.CHANGED, 0))
        self.audit.record(
            "policy",
            ALLOWED,
            message=f"{counted(len(policy.rules), 'rule')}, {counted(cut, 'connection')} cut",
        )
        self.orders.tell_followers()
        return cut

    def _cut(self, flow: Flow) -> None:
        """Cut a connection: one that egress relays at once, one that the sentry relays after it was told.

        The sentry resets the program's end; if it does not react, egress shuts the connection down itself.
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
        flow.rule = rule  # applies to the next request
        return not flow.addr or not self.policy.objection(rule, flow.addr, target.transport, target.port)
