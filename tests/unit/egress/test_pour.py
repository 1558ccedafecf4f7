"""Bodies of known length, which pass egress unread: they are whole, are counted, and the requests around them are
checked."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from cloche.egress import pour as pouring
from cloche.egress.approvals import Approvals
from cloche.egress.flow import Flow
from cloche.egress.guard import Guard
from cloche.egress.httprelay import HttpRelay
from cloche.egress.policy import HTTP, parse_rule
from cloche.egress.pour import LEAST, pour
from cloche.egress.streams import PlainStream
from cloche.wire.egress import TCP, Target

PATIENCE_S = 100
SIZE = 5 * LEAST + 7
BODY = os.urandom(SIZE)
Play = Callable[["Stage"], Awaitable[None]]


class Stage:
    """A program and a server at the two ends of a relay."""

    def __init__(self) -> None:
        (self.program, inside), (upstream, self.server) = socket.socketpair(), socket.socketpair()
        for sock in (self.program, inside, upstream, self.server):
            sock.setblocking(False)
        flow = Flow(1, Target(TCP, bytes(4), 80, 0, b""))
        flow.name, flow.rule, flow.protocol = "good.test", parse_rule("good.test"), HTTP
        self.statuses: list[int] = []
        self.inside, self.upstream = inside, upstream
        self.relay = HttpRelay(
            PlainStream(inside),
            PlainStream(upstream),
            Guard(flow, Approvals(), 1),
            b"http",
            lambda _method, _target, status, _why: self.statuses.append(status),
        )
        self.buffers: dict[socket.socket, bytearray] = {self.program: bytearray(), self.server: bytearray()}

    async def send(self, sock: socket.socket, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(sock, data)

    async def read(self, sock: socket.socket, count: int) -> bytes:
        buffer = self.buffers[sock]
        while len(buffer) < count:
            data = await asyncio.get_running_loop().sock_recv(sock, 1 << 18)
            if not data:
                break
            buffer += data
        found = bytes(buffer[:count])
        del buffer[:count]
        return found

    async def head(self, sock: socket.socket) -> bytes:
        found = b""
        while not found.endswith(b"\r\n\r\n"):
            byte = await self.read(sock, 1)
            if not byte:
                break
            found += byte
        return found

    def ask(self, path: str, more: str = "") -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: good.test\r\n{more}\r\n".encode()

    def answer(self, length: int, more: str = "") -> bytes:
        return f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def played(play: Play) -> Stage:
    """Play it while the relay runs, to its end."""

    async def main() -> Stage:
        stage = Stage()

        async def run() -> None:
            try:
                await stage.relay.run()
            except OSError:
                pass  # as the egress process does
            finally:
                stage.inside.close()
                stage.upstream.close()

        try:
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
                group.create_task(run())
                await play(stage)
                stage.program.close()
        finally:
            stage.server.close()
        return stage

    return asyncio.run(main())


def test_answers_and_further_requests() -> None:
    async def play(stage: Stage) -> None:
        for turn in range(3):
            await stage.send(stage.program, stage.ask(f"/{turn}"))
            assert (await stage.head(stage.server)).startswith(b"GET /%d " % turn)
            await stage.send(stage.server, stage.answer(SIZE))
            sending = asyncio.ensure_future(stage.send(stage.server, BODY))
            assert b"content-length: %d" % SIZE in (await stage.head(stage.program)).lower()
            assert await stage.read(stage.program, SIZE) == BODY
            await sending

    stage = played(play)
    assert stage.relay.received > 3 * SIZE and stage.statuses.count(200) == 3


def test_bodies_of_requests_and_pipelined_ones() -> None:
    """What follows a body is a request, and is checked as one."""
    post = b"POST /up HTTP/1.1\r\nHost: good.test\r\nContent-Length: %d\r\n\r\n" % SIZE

    async def play(stage: Stage) -> None:
        whole = post + BODY + stage.ask("/next") + b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
        sending = asyncio.ensure_future(stage.send(stage.program, whole))
        for wanted, body in ((b"POST /up ", BODY), (b"GET /next ", b"")):
            assert (await stage.head(stage.server)).startswith(wanted)
            assert await stage.read(stage.server, len(body)) == body
            await stage.send(stage.server, stage.answer(2) + b"ok")
        await sending
        told = await stage.read(stage.program, 1 << 20)
        assert told.count(b"200 OK") == 2 and b"421" in told.split(b"\r\n\r\n")[2]
        assert await stage.read(stage.server, 1) == b""

    assert played(play).relay.sent > SIZE


@pytest.mark.parametrize("whose", ["server", "program", "old"])
def test_who_closes_is_asked_nothing_more(whose: str) -> None:
    async def play(stage: Stage) -> None:
        asked = stage.ask("/", "Connection: close\r\n" if whose == "program" else "")
        if whose == "old":
            asked = asked.replace(b"HTTP/1.1", b"HTTP/1.0")
        await stage.send(stage.program, asked + stage.ask("/second"))
        await stage.head(stage.server)
        more = "Connection: close\r\n" if whose == "server" else ""
        sending = asyncio.ensure_future(stage.send(stage.server, stage.answer(SIZE, more) + BODY))
        head = await stage.head(stage.program)
        assert whose == "server" or b"connection: close" in head.lower()
        assert await stage.read(stage.program, SIZE + 100) == BODY
        await sending
        assert await stage.read(stage.server, 1) == b""

    played(play)


def test_a_server_that_says_more_than_its_answer() -> None:
    async def play(stage: Stage) -> None:
        await stage.send(stage.program, stage.ask("/") + stage.ask("/second"))
        await stage.head(stage.server)
        lie = stage.answer(LEAST) + BODY[:LEAST] + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"
        await stage.send(stage.server, lie)
        await stage.head(stage.program)
        assert (await stage.read(stage.program, 1 << 20))[:LEAST] == BODY[:LEAST]

    played(play)


def test_a_server_that_ends_early() -> None:
    async def play(stage: Stage) -> None:
        await stage.send(stage.program, stage.ask("/"))
        await stage.head(stage.server)
        await stage.send(stage.server, stage.answer(SIZE) + BODY[:1000])
        stage.server.shutdown(socket.SHUT_WR)
        await stage.head(stage.program)
        assert await stage.read(stage.program, SIZE) == BODY[:1000]

    played(play)


def test_a_program_that_ends_its_request_early() -> None:
    """The server does not take the cut request for a whole one."""

    async def play(stage: Stage) -> None:
        post = b"POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: %d\r\n\r\n" % SIZE
        await stage.send(stage.program, post + BODY[:1000])
        stage.program.shutdown(socket.SHUT_WR)
        await stage.head(stage.server)
        assert len(await stage.read(stage.server, SIZE)) < SIZE

    played(play)


@pytest.mark.parametrize(
    ("asked", "status", "length"),
    [("HEAD", "200 OK", 0), ("GET", "304 Not Modified", 0), ("GET", "204 None", 0)],
)
def test_a_length_without_a_body(asked: str, status: str, length: int) -> None:
    async def play(stage: Stage) -> None:
        for _turn in range(2):
            await stage.send(stage.program, stage.ask("/").replace(b"GET", asked.encode()))
            await stage.head(stage.server)
            head = f"HTTP/1.1 {status}\r\n"
            head += "" if status.startswith("204") else f"Content-Length: {SIZE}\r\n"
            await stage.send(stage.server, head.encode() + b"\r\n")
            assert status.split()[0].encode() in await stage.head(stage.program)

    played(play)


@pytest.mark.parametrize("has_pipe", [True, False])
@pytest.mark.parametrize("count", [1, LEAST, (3 << 20) + 1])
def test_every_byte_once(count: int, has_pipe: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a pipe, and through a buffer where there are too many pipes; a slow reader, with nothing lost after it."""
    if not has_pipe:
        monkeypatch.setattr(pouring, "_MAX_PIPES", 0)
    data = os.urandom(count)

    async def main() -> None:
        (ours, source), (sink, theirs) = socket.socketpair(), socket.socketpair()
        for sock in (ours, source, sink, theirs):
            sock.setblocking(False)
        loop = asyncio.get_running_loop()
        moved: list[int] = []
        sending = asyncio.ensure_future(loop.sock_sendall(ours, data + b"after"))
        pouring_task = asyncio.ensure_future(pour(source, sink, count, moved.append))
        got = bytearray()
        while len(got) < count:
            got += await loop.sock_recv(theirs, 1 + len(got) % 70001)
        await pouring_task
        assert got == data and sum(moved) == count
        assert await loop.sock_recv(source, 100) == b"after"
        await sending
        for sock in (ours, source, sink, theirs):
            sock.close()

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_that_is_cut() -> None:
    async def main() -> None:
        (ours, source), (sink, theirs) = socket.socketpair(), socket.socketpair()
        for sock in (ours, source, sink, theirs):
            sock.setblocking(False)
        task = asyncio.ensure_future(pour(source, sink, SIZE, lambda _count: None))
        await asyncio.get_running_loop().sock_sendall(ours, b"x")
        assert await asyncio.get_running_loop().sock_recv(theirs, 9) == b"x"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        theirs.close()
        with pytest.raises(OSError, match="pipe|reset"):
            await asyncio.get_running_loop().sock_sendall(ours, b"y")
            await pour(source, sink, 1, lambda _count: None)
        for sock in (ours, source, sink):
            sock.close()

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert len(os.listdir("/proc/self/fd")) == before
