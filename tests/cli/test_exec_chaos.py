"""Clients that vanish at any moment, many at once, bombs: the sandbox goes on, and nothing is left."""

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.runtime.records import Store
from cloche.wire import requests
from cloche.wire.control_client import ControlClient
from cloche.wire.requests import FOREGROUND, ExecRequest
from tests.cli.harness import TIMEOUT_S, descendants, name_of, wait_until
from tests.cli.test_exec import Box


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "root", [])
    made.start("sleep", "10000", options=("--pids", "400"))
    yield made
    made.end()


def request(*command: bytes) -> ExecRequest:
    made = ExecRequest(list(command))
    made.streams = [0, 1, 2]
    return made


def connected(box: Box) -> ControlClient:
    return ControlClient(Store(str(box.root)).connect("box"))


def only_the_first(box: Box) -> bool:
    return box("ps", "box").out.count("\n") == 2


def test_clients_that_vanish(box: Box) -> None:
    chance = random.Random(11)
    null = os.open(os.devnull, os.O_RDWR)
    monitor = box.pid()
    before = len(os.listdir(f"/proc/{monitor}/fd"))
    for _ in range(150):
        client = connected(box)
        step = chance.randrange(5)
        ident = 0
        if step >= 1:
            ident = client.execute(request(b"sh", b"-c", b"sleep 100 & sleep 100"), [null] * 3)
        if step == 2:
            client.signal(ident, signal.SIGUSR1, FOREGROUND)
        if step >= 3:
            client.receive()
        if step == 4:
            # To all: background processes of a command that has ended may live on.
            client.signal(ident, signal.SIGTERM, FOREGROUND)
        client.close()
    os.close(null)
    wait_until(lambda: only_the_first(box), "all of them are gone")
    wait_until(lambda: len(os.listdir(f"/proc/{monitor}/fd")) == before, "and their descriptors")


def test_many_at_once(box: Box) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    pairs = [os.pipe() for _ in range(60)]
    clients = []
    for index, (_reader, writer) in enumerate(pairs):
        client = connected(box)
        client.execute(request(b"sh", b"-c", b"echo $0; exit $0", b"%d" % index), [null, writer, null])
        os.close(writer)
        clients.append(client)
    for index, client in enumerate(clients):
        client.receive()
        assert client.receive().fields == {"status": index << 8}
        client.close()
        assert os.read(pairs[index][0], 100) == b"%d\n" % index
        os.close(pairs[index][0])
    os.close(null)
    assert only_the_first(box)


def test_more_clients_than_are_served(box: Box) -> None:
    """Those who come later wait, and are served when others leave."""
    waiting = [connected(box) for _ in range(300)]
    late = box.popen("exec", "box", "--", "echo", "hi", stdout=subprocess.PIPE)
    for client in waiting:
        client.close()
    assert late.communicate(timeout=TIMEOUT_S)[0] == b"hi\n"


def test_a_client_that_does_not_read(box: Box) -> None:
    client = connected(box)
    for _ in range(3):
        for _ in range(500):
            client.ask(requests.PS, {})
    assert box("exec", "box", "--", "echo", "hi").out == "hi\n"
    client.close()


def test_output_that_nobody_takes(box: Box) -> None:
    """A full pipe holds up its writer, not the sandbox."""
    reader, writer = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    client = connected(box)
    client.execute(request(b"sh", b"-c", b"yes"), [null, writer, null])
    client.receive()
    assert box("exec", "box", "--", "echo", "hi").out == "hi\n"
    client.close()
    wait_until(lambda: only_the_first(box), "it is gone")
    for fd in (reader, writer, null):
        os.close(fd)


def test_the_sentry_dies_under_exec(box: Box) -> None:
    client = box.popen("exec", "box", "--", "sleep", "100", stderr=subprocess.PIPE)
    wait_until(lambda: not only_the_first(box), "started")
    monitor = box.pid()
    everyone = descendants(monitor)
    names = {name_of(pid): pid for pid in everyone}
    os.kill(names["cloche-sentry"], signal.SIGKILL)
    _out, error = client.communicate(timeout=TIMEOUT_S)
    assert client.returncode == 137 and error.count(b"\n") == 1, error
    assert box("wait", "box").status == 125 and box.state()["error"].startswith("the sentry died (signal 9)")
