"""The standard streams of `cloche run`: files, pipes and sockets of the host behave as they do without a sandbox."""

import hashlib
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.guest.harness import TIMEOUT_S, cloche_command

pytestmark = pytest.mark.guest


def start(argv: list[str], folder: Path, **streams: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([*cloche_command("-i"), *argv], cwd=folder, **streams)  # type: ignore[call-overload,no-any-return]


def test_much_data_through_pipes(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    done = subprocess.run(
        [*cloche_command("-i"), "cat"],
        cwd=tmp_path,
        input=data,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_position_of_a_file_is_shared(tmp_path: Path) -> None:
    name = tmp_path / "input"
    name.write_bytes(b"one\ntwo\nthree\n")
    with name.open("rb") as source, (tmp_path / "output").open("wb") as sink:
        for _index in range(3):
            with start(
                ["sh", "-c", "read x; echo got $x"], tmp_path, stdin=source.fileno(), stdout=sink.fileno()
            ) as run:
                assert run.wait(TIMEOUT_S) == 0
    assert (tmp_path / "output").read_bytes() == b"got one\ngot two\ngot three\n"


def test_appending(tmp_path: Path) -> None:
    name = tmp_path / "log"
    name.write_bytes(b"before\n")
    with name.open("ab") as sink, start(["echo", "after"], tmp_path, stdout=sink.fileno()) as run:
        assert run.wait(TIMEOUT_S) == 0
    assert name.read_bytes() == b"before\nafter\n"


def test_reader_that_leaves(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with start(["yes"], tmp_path, stdout=write_end) as run:
        os.close(write_end)
        assert os.read(read_end, 4) == b"y\ny\n"
        os.close(read_end)
        assert run.wait(TIMEOUT_S) == 128 + 13


def test_socket_as_a_stream(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with start(
        ["sh", "-c", "read x; echo got $x; read y; echo and $y"],
        tmp_path,
        stdin=theirs.fileno(),
        stdout=theirs.fileno(),
    ) as run:
        theirs.close()
        ours.settimeout(TIMEOUT_S)
        ours.send(b"first\n")
        assert ours.recv(100) == b"got first\n"
        ours.send(b"second\n")
        assert ours.recv(100) == b"and second\n"
        assert run.wait(TIMEOUT_S) == 0
    ours.close()


def test_waiting_for_input_that_comes_late(tmp_path: Path) -> None:
    script = "import select,sys; print(select.select([0],[],[],30)[0], sys.stdin.readline().strip())"
    read_end, write_end = os.pipe()
    with start(["python3", "-c", script], tmp_path, stdin=read_end, stdout=subprocess.PIPE) as run:
        os.close(read_end)
        os.write(write_end, b"late\n")
        os.close(write_end)
        assert run.stdout is not None
        assert run.stdout.read() == b"[0] late\n"


POLL = "p = select.poll(); p.register(0, 1); p.poll()"
POLL_TWICE = "p = select.poll(); p.register(0, 1); p.register(os.dup(0), 1); p.poll()"
SELECT = "select.select([0], [], [])"
TELL_WHEN_IT_WAITS = """
import os, select
waiting = os.getpid()
if os.fork() == 0:
    while open(f"/proc/{waiting}/stat").read().split()[2] != "S":
        pass
    print("waiting", flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize("wait", [POLL, POLL_TWICE, SELECT])
def test_a_wait_sees_input_that_comes_late(tmp_path: Path, wait: str) -> None:
    code = f"{TELL_WHEN_IT_WAITS}{wait}; print(os.read(0, 9))"
    with start(["python3", "-c", code], tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin is not None and run.stdout is not None
        assert run.stdout.readline() == b"waiting\n"
        run.stdin.write(b"late\n")
        run.stdin.flush()
        assert run.communicate(timeout=TIMEOUT_S)[0] == b"b'late\\n'\n"


def test_dev_stdout(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *cloche_command(),
            "sh",
            "-c",
            "echo out >/dev/stdout; echo err >/dev/stderr; echo more >>/dev/fd/1",
        ],
        cwd=tmp_path,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert done.stdout == b"out\nmore\n" and done.stderr == b"err\n"


def test_flags_of_the_host_are_left_alone(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with start(["cat"], tmp_path, stdin=read_end, stdout=subprocess.DEVNULL) as run:
        os.write(write_end, b"x" * 10)
        assert os.get_blocking(read_end)
        os.close(write_end)
        assert run.wait(TIMEOUT_S) == 0
        assert os.get_blocking(read_end)
    os.close(read_end)
