"""Daemons of pods that answer oddly: `cloche serve` asks them, and they may be hostile."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

pytest.importorskip("h11")

from cloche.sdk.errors import PortClosed, StartError
from cloche.serve import pods
from cloche.serve.entry import Template

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ADDRESS = "127.0.0.1"


def introduce(monkeypatch: pytest.MonkeyPatch, handler: Handler) -> bool:
    """What the endpoint makes of a daemon; the connection is closed at the end."""

    async def main() -> bool:
        closed = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(reader, writer)
                while await reader.read(4096):
                    pass
            except ConnectionError:
                pass
            closed.set()
            writer.close()

        server = await asyncio.start_server(serve, ADDRESS, 0)
        monkeypatch.setattr(pods, "ENVD_PORT", server.sockets[0].getsockname()[1])
        try:
            return await pods._introduce(ADDRESS, "a token", {"A": "1"})
        finally:
            await closed.wait()
            server.close()

    return asyncio.run(main())


def saying(text: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        assert asked.startswith(b"POST /init HTTP/1.1\r\n") and b"a token" in asked, asked
        assert await reader.readexactly(len(BODY)) == BODY
        writer.write(text)
        await writer.drain()

    return handler


BODY = b'{"accessToken": "a token", "envVars": {"A": "1"}}'


def test_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = b"HTTP/1.1 204 No Content\r\nCloche-Daemon: 1\r\n\r\n"
    assert introduce(monkeypatch, saying(ours))
    assert not introduce(
        monkeypatch, saying(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"HTTP/1.1 401 No\r\nContent-Length: 3\r\n\r\nbad", "401 bad$"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 20_000, "500 x{500}$"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not answer"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000, "does not answer"),
    ],
)
def test_odd_answers(monkeypatch: pytest.MonkeyPatch, text: bytes, told: str) -> None:
    with pytest.raises(StartError, match=told):
        introduce(monkeypatch, saying(text))


def test_one_that_drips_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not hold the endpoint for longer than an exchange may take, whatever it sends meanwhile."""
    monkeypatch.setattr(pods, "_CALL_S", 0.5)

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    with pytest.raises(StartError, match="does not answer"):
        introduce(monkeypatch, drip)


def test_ports_of_a_pod() -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), ADDRESS, 0)
        port = server.sockets[0].getsockname()[1]
        entry = pods.PodEntry(None, "pod", "ident", "owner", Template("base"))  # type: ignore[arg-type]
        entry.address = ADDRESS
        (await entry.dial(port)).close()
        server.close()
        await server.wait_closed()
        with pytest.raises(PortClosed):
            await entry.dial(port)

    asyncio.run(main())
