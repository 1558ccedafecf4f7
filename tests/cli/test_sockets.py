"""Unix sockets of the host in volumes of `cloche run`: reached only with `sockets`; and those that programs bind."""

import socket
import subprocess
from pathlib import Path

import pytest

from tests.cli.harness import CLOCHE, TIMEOUT_S, environment, run_words

PYTHON = "/usr/bin/python3"
CLIENT = """
import socket
try:
    s = socket.socket(socket.AF_UNIX)
    s.connect("/v/host")
    s.sendall(b"text")
    print(s.recv(9).decode())
except OSError as error:
    print(error.strerror)
"""
SERVER = """
import socket
s = socket.socket(socket.AF_UNIX)
s.bind("/v/inside")
s.listen()
print("listens", flush=True)
c = s.accept()[0]
c.sendall(c.recv(9))
"""
MESSAGES = """
import select, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.bind("/v/inside")
s.listen()
print("listens", flush=True)
c = s.accept()[0]
poll = select.poll()
poll.register(c, select.POLLRDHUP)
while not poll.poll()[0][1] & select.POLLHUP:
    pass
print([c.recv(9) for _turn in range(5)], flush=True)
c = s.accept()[0]
c.setblocking(False)
try:
    while True:
        c.send(bytes(1000))
except BlockingIOError:
    c.shutdown(socket.SHUT_RD)
    print("deaf", flush=True)
s.accept()
"""

pytestmark = pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"needs {PYTHON}")


@pytest.mark.parametrize(
    "mode, said", [("rw", "refused"), ("ro", "refused"), ("ro,sockets", "text"), ("rw,sockets", "text")]
)
def test_the_host_s(tmp_path: Path, mode: str, said: str) -> None:
    code = "import socket\ns=socket.socket(fileno=0)\nc=s.accept()[0];c.sendall(c.recv(9))"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "host"))
        listener.listen()
        echo = subprocess.Popen([PYTHON, "-c", code], stdin=listener.fileno())
        try:
            done = run_words([*CLOCHE, "run", "-v", f"{tmp_path}:/v:{mode}", "--", PYTHON, "-c", CLIENT])
        finally:
            echo.kill()
            echo.wait()
    assert said in done.out, done


def test_one_inside(tmp_path: Path) -> None:
    words = [*CLOCHE, "run", "-v", f"{tmp_path}:/v:rw", "--", PYTHON, "-c", SERVER]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE) as server:
        assert server.stdout is not None and server.stdout.readline() == b"listens\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT_S)
            client.connect(str(tmp_path / "inside"))
            client.sendall(b"text")
            assert client.recv(9) == b"text" and client.recv(9) == b""
        assert server.wait(TIMEOUT_S) == 0


def test_messages_behind_an_empty_one(tmp_path: Path) -> None:
    """They come, though their sender has gone; and one that reads no more refuses them, though it has unsent data."""
    words = [*CLOCHE, "run", "-v", f"{tmp_path}:/v:rw", "--", PYTHON, "-c", MESSAGES]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE) as server:
        try:
            talk(server, tmp_path / "inside")
        except BaseException:
            server.terminate()
            raise
        assert server.wait(TIMEOUT_S) == 0


def talk(server: subprocess.Popen[bytes], path: Path) -> None:
    """What the clients of MESSAGES do."""
    assert server.stdout is not None and server.stdout.readline() == b"listens\n"
    with dialed(path) as client:
        for text in (b"", b"one", b"", b"two"):
            client.send(text)
    assert server.stdout.readline() == b"[b'', b'one', b'', b'two', b'']\n"
    with dialed(path) as client:
        assert server.stdout.readline() == b"deaf\n"
        with pytest.raises(BrokenPipeError):
            while True:
                client.send(b"text")
    dialed(path).close()


def dialed(path: Path) -> socket.socket:
    """A connection that keeps messages apart."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.settimeout(TIMEOUT_S)
    made.connect(str(path))
    return made


def test_what_is_private_shows_none(tmp_path: Path) -> None:
    done = run_words([*CLOCHE, "run", "-v", f"{tmp_path}:/v:cow,sockets", "--", "/bin/true"])
    assert done.status == 125 and "sockets may follow" in done.err, done
