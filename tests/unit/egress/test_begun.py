"""Connections that egress opens without a task: what the connector gives to the sentry, and what comes in between."""

import asyncio
import contextlib
import errno
import json
import socket
from array import array
from collections.abc import Awaitable, Callable, Iterator

import pytest

from cloche.egress.audit import Audit
from cloche.egress.policy import Policy, parse_rule
from cloche.egress.resolver import HostNames, Resolver
from cloche.egress.server import Server
from cloche.egress.sockets import Sockets
from cloche.wire import egress as wire
from cloche.wire.connector import ASK_BYTES, ConnectAnswer, ConnectRequest
from cloche.wire.descriptors import receive_with_descriptor

PATIENCE_S = 60
FIRST, SECOND = bytes([93, 184, 216, 34]), bytes([93, 184, 216, 35])
RULES = ["good.test:7000", "good.test:443"]


def policy_of(rules: list[str]) -> Policy:
    made = Policy()
    made.rules = [parse_rule(each) for each in rules]
    return made


class Stage:
    """A server with the sentry's and the connector's ends of its sockets."""

    def __init__(self) -> None:
        self.sentry, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connector, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sentry.setblocking(False)
        self.connector.setblocking(False)
        policy, host = policy_of(RULES), HostNames()
        host.names["good.test"] = [FIRST, SECOND]
        sockets = Sockets(ours)
        resolver = Resolver(host, [], sockets)
        self.audit = Audit("one", -1, -1)
        self.server = Server(channel, None, policy, resolver, sockets, self.audit)
        self.channel = channel
        made = self.server.names.address_of("good.test", is_exact=True)
        assert made is not None
        self.addr = made
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.there = socket.create_connection(listener.getsockname())
            self.far, _address = listener.accept()
            self.far.setblocking(False)

    def connect(self, ident: int, port: int = 7000) -> None:
        target = wire.Target(wire.TCP, self.addr, port, 3, b"python")
        self.sentry.send(wire.message(wire.CONNECT, ident, target.encode()))

    async def asked(self) -> ConnectRequest:
        return ConnectRequest.decode(await asyncio.get_running_loop().sock_recv(self.connector, ASK_BYTES))

    def answer(
        self, request: ConnectRequest, sock: socket.socket | None, *, is_given: bool = False, failed: int = 0
    ) -> None:
        fds = [] if sock is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [sock.fileno()]))]
        made = ConnectAnswer(request.ident, failed, is_own=False, is_given=is_given)
        self.connector.sendmsg([made.encode()], fds)

    async def told(self) -> tuple[wire.EgressMessage, bool]:
        """The next message to the sentry, and whether it brought a descriptor."""
        while True:
            try:
                data, fd = receive_with_descriptor(self.sentry, wire.MESSAGE_BYTES)
            except BlockingIOError:
                await asyncio.sleep(0)
                continue
            if fd >= 0:
                socket.socket(fileno=fd).close()
            return wire.decode(data), fd >= 0

    async def until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            await asyncio.sleep(0)

    def log(self) -> list[tuple[str, object]]:
        lines = [json.loads(line) for _number, line in self.audit.lines]
        return [(line["activity_name"], line.get("traffic")) for line in lines]

    def is_quiet(self) -> bool:
        """Whether the sentry was told nothing more."""
        try:
            self.sentry.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False


@contextlib.contextmanager
def closing(stage: Stage) -> Iterator[None]:
    try:
        yield
    finally:
        for each in (stage.sentry, stage.connector, stage.channel, stage.there, stage.far):
            each.close()


def play(script: Callable[[Stage], Awaitable[None]]) -> None:
    async def main() -> None:
        stage = Stage()
        with closing(stage):
            running = asyncio.ensure_future(stage.server.run())
            await asyncio.wait_for(asyncio.ensure_future(script(stage)), PATIENCE_S)
            stage.server.ended.set()
            await running

    asyncio.run(main())


def test_one_that_the_sentry_has_already() -> None:
    async def script(stage: Stage) -> None:
        stage.connect(5)
        request = await stage.asked()
        assert (request.addr, request.port, request.sentry) == (FIRST, 7000, 5)
        stage.answer(request, stage.there, is_given=True)
        await stage.until(lambda: bool(stage.log()))
        assert stage.is_quiet() and not stage.server.dialer.begun
        stage.sentry.send(wire.closed(5, 30, 40))
        await stage.until(lambda: not stage.server.flows)
        assert stage.log() == [("open", None), ("close", {"bytes_in": 30, "bytes_out": 40})]

    play(script)


def test_its_end_may_come_before_the_connector_s_answer() -> None:
    async def script(stage: Stage) -> None:
        stage.connect(5)
        request = await stage.asked()
        stage.sentry.send(wire.closed(5, 30, 40))
        await stage.until(lambda: stage.server.flows[5].is_abandoned)
        stage.answer(request, stage.there, is_given=True)
        await stage.until(lambda: not stage.server.flows)
        assert stage.log() == [("open", None), ("close", {"bytes_in": 30, "bytes_out": 40})]
        assert not stage.server.dialer.begun

    play(script)


@pytest.mark.parametrize("fails", [True, False])
def test_one_that_nobody_waits_for_any_more(fails: bool) -> None:
    async def script(stage: Stage) -> None:
        stage.connect(5)
        request = await stage.asked()
        stage.sentry.send(wire.message(wire.GONE, 5))
        await stage.until(lambda: stage.server.flows[5].is_abandoned)
        stage.answer(request, None if fails else stage.there, failed=errno.ECONNREFUSED if fails else 0)
        await stage.until(lambda: not stage.server.flows)
        assert stage.log() == [] and stage.is_quiet()

    play(script)


def test_a_rule_that_goes_while_the_connector_is_asked() -> None:
    """The sentry has the socket then, and cannot use it."""

    async def script(stage: Stage) -> None:
        stage.connect(5)
        request = await stage.asked()
        assert stage.server.change(policy_of(["other.test:7000"])) == 1
        stage.answer(request, stage.there, is_given=True)
        await stage.until(lambda: bool([each for each in stage.log() if each[0] == "open"]))
        assert await asyncio.get_running_loop().sock_recv(stage.far, 1) == b""  # it was shut down
        kinds = {(await stage.told())[0].kind for _turn in range(2)}
        assert kinds == {wire.CUT, wire.CHANGED}
        stage.connect(6)  # what was decided counts no more
        message, has_socket = await stage.told()
        assert (message.ident, message.errno(), has_socket) == (6, errno.EACCES, False)
        stage.sentry.send(wire.closed(5, 0, 0))
        await stage.until(lambda: not stage.server.flows)
        assert [each[0] for each in stage.log()] == ["policy", "open", "refuse", "cut"]

    play(script)


def test_an_address_that_fails_is_not_asked_for_again() -> None:
    async def script(stage: Stage) -> None:
        stage.connect(5)
        first = await stage.asked()
        stage.answer(first, None, failed=errno.ECONNREFUSED)
        second = await stage.asked()
        assert (first.addr, second.addr, second.sentry) == (FIRST, SECOND, 0)
        stage.answer(second, stage.there)
        message, has_socket = await stage.told()
        assert (message.kind, message.errno(), has_socket) == (wire.ANSWER, 0, True)
        assert stage.log() == [("open", None)]

    play(script)


def test_one_that_is_still_connecting() -> None:
    """Egress waits for it, and gives it away; if it fails, the next address has its turn."""

    async def script(stage: Stage) -> None:
        with socket.socket() as never, socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            never.setblocking(False)
            stage.connect(5)
            first = await stage.asked()
            never.connect_ex(bound.getsockname())  # nobody listens: it has failed
            stage.answer(first, never, failed=errno.EINPROGRESS)
            second = await stage.asked()
            assert second.addr == SECOND
            stage.answer(second, stage.there)
            message, has_socket = await stage.told()
            assert (message.kind, message.errno(), has_socket) == (wire.ANSWER, 0, True)
        assert not stage.server.dialer.begun

    play(script)


def test_what_egress_reads_first_is_never_given_by_the_connector() -> None:
    async def script(stage: Stage) -> None:
        stage.connect(5, 443)
        request = await stage.asked()
        assert request.sentry == 0
        stage.answer(request, stage.there)
        message, has_socket = await stage.told()
        assert (message.kind, has_socket) == (wire.ANSWER, True)
        assert stage.server.flows[5].inside is not None  # a pair, and not the connection

    play(script)


def test_a_connector_that_ends() -> None:
    async def script(stage: Stage) -> None:
        stage.connect(5)
        await stage.asked()
        stage.connector.close()
        message, has_socket = await stage.told()
        assert (message.ident, message.errno(), has_socket) == (5, errno.ENETDOWN, False)

    play(script)
