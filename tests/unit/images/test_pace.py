"""A registry that sends a byte now and then does not keep a pull for ever, whatever it is asked for."""

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.images import pace, registry
from cloche.images.errors import ImageError
from cloche.images.image import Descriptor, Progress
from cloche.images.reference import parse_reference as parse
from cloche.images.registry import Registry
from cloche.images.store import Store

DIGEST = "sha256:" + "0" * 64


@contextlib.contextmanager
def dripping(head: bytes) -> Iterator[str]:
    """A server that answers with `head` and then a byte at a time, as long as it is listened to; its address."""
    ended = threading.Event()

    def drip(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(65536)
            client.sendall(head)
            for _ in itertools.takewhile(lambda _: not ended.wait(0.01), itertools.repeat(None)):
                client.sendall(b"x")

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                threading.Thread(target=drip, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def connect(host: str) -> Registry:
    """A registry without the question whether it has TLS."""
    made = Registry.__new__(Registry)
    made.name = parse(f"{host}/tool:1")
    made.host, made.scope, made.url = host, "", f"http://{host}/v2/tool"
    made.pool = registry._pool(made.url, host)
    made.authorization, made.documents = "", {}
    return made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "ANSWER_S", 0.2)
    monkeypatch.setattr(registry, "ANSWER_S", 0.2)
    monkeypatch.setattr(pace, "SLOWEST_BYTES_S", 1e9)


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"]
)
def test_a_manifest(head: bytes) -> None:
    with dripping(head) as host, pytest.raises(ImageError, match="too slowly"):
        connect(host).resolve()


def test_a_tls_handshake() -> None:
    # what looks like the beginning of a long record of TLS
    with dripping(b"\x16\x03\x03\x40\x00") as host, pytest.raises(ImageError, match="too slowly"):
        Registry(parse(f"{host}/tool:1"))


def test_a_layer(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    store = Store(str(tmp_path))
    with dripping(head) as host, pytest.raises(ImageError, match="too slowly"):
        connect(host).fetch(
            store,
            Descriptor({"mediaType": "application/octet-stream", "digest": DIGEST, "size": 1000000}),
            Progress(),
        )


def test_a_large_layer_may_take_longer() -> None:
    assert pace.allowed_s(1 << 30) > pace.allowed_s(1 << 20) > pace.ANSWER_S
