"""`cloche run -p`: connections from the host to servers in the sandbox."""

import os
import re
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import TIMEOUT_S, Running, alive, is_one_line, run, shell, wait_until

PYTHON = "/usr/bin/python3"

pytestmark = pytest.mark.skipif(not os.path.exists(PYTHON), reason="no Python of the system's")

# Says "ready", then serves one connection after the other with the function `serve`.
SERVER = """
import os, select, socket, struct, sys, time
listener = socket.create_server(("127.0.0.1", 700), backlog=int(os.environ.get("BACKLOG", "50")))
print("ready", flush=True)
def connections():
    while True:
        yield listener.accept()
"""


def free_port() -> int:
    """A port that is free at present."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Server:
    """A Python program in a sandbox, one of whose ports is published."""

    def __init__(self, script: str, inside: int = 700, *options: str) -> None:
        self.port = free_port()
        options = ("-p", f"{self.port}:{inside}", *options)
        self.running = Running(PYTHON, "-c", script, options=options)
        assert self.running.wait_for_line() == "ready", self.running.finish()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)

    def line(self) -> str:
        assert self.running.process.stdout is not None
        return self.running.process.stdout.readline().decode().strip()


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    """Those that a test starts are ended after it."""
    started: list[Server] = []
    yield started
    for server in started:
        server.running.end()


def read_all(sock: socket.socket) -> bytes:
    """Until the end of the stream."""
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def test_peer_and_half_close(servers: list[Server]) -> None:
    server = Server(
        SERVER
        + """
for sock, peer in connections():
    data = b""
    while piece := sock.recv(100):
        data += piece
    sock.sendall(repr((data, peer, sock.getpeername(), sock.getsockname())).encode())
    sock.close()
"""
    )
    servers.append(server)
    for _turn in range(2):
        with server.connect() as sock:
            sock.sendall(b"hello ")
            sock.sendall(b"world")
            sock.shutdown(socket.SHUT_WR)
            here = sock.getsockname()
            assert eval(read_all(sock)) == (b"hello world", here, here, ("127.0.0.1", 700))


def test_options_and_events(servers: list[Server]) -> None:
    server = Server(
        SERVER
        + """
for sock, peer in connections():
    found = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), sock.type, sock.family]
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
    poller = select.poll()
    poller.register(sock, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
    found.append(poller.poll(0)[0][1])
    print("look", flush=True)
    while poller.poll()[0][1] == select.POLLOUT: time.sleep(0.001)
    found.append(poller.poll(0)[0][1])
    found.append(sock.recv(100, socket.MSG_PEEK))
    found.append(sock.recv(100))
    found.append(poller.poll(0)[0][1])
    print("end", flush=True)
    while poller.poll()[0][1] == select.POLLOUT: time.sleep(0.001)
    found.append(poller.poll(0)[0][1])
    found.append(sock.recv(100))
    sock.sendall(repr(found).encode())
    sock.shutdown(socket.SHUT_WR)
    found = poller.poll(0)[0][1]
    print(found, flush=True)
    sock.close()
"""
    )
    servers.append(server)
    with server.connect() as sock:
        assert server.line() == "look"
        sock.sendall(b"data")
        assert server.line() == "end"
        sock.shutdown(socket.SHUT_WR)
        found = eval(re.sub(r"<[\w.]+: (\d+)>", r"\1", read_all(sock).decode()))
        readable, writable, closing = select.POLLIN, select.POLLOUT, select.POLLRDHUP
        assert found[:5] == [0, int(socket.SOCK_STREAM), int(socket.AF_INET), 1, 1]
        assert found[5:] == [
            writable,
            readable | writable,
            b"data",
            b"data",
            writable,
            readable | writable | closing,
            b"",
        ]
        assert int(server.line()) == readable | writable | closing | select.POLLHUP


def test_resets_in_both_directions(servers: list[Server]) -> None:
    server = Server(
        SERVER
        + """
for sock, peer in connections():
    if sock.recv(1) == b"a":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        try:
            sock.recv(1)
        except ConnectionResetError as error:
            print("reset", flush=True)
    sock.close()
"""
    )
    servers.append(server)
    with server.connect() as sock:
        sock.sendall(b"a")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    sock = server.connect()
    sock.sendall(b"b")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    assert server.line() == "reset"


def test_nobody_listens(servers: list[Server]) -> None:
    server = Server(SERVER + "time.sleep(100)", 701)
    servers.append(server)
    with pytest.raises(ConnectionResetError), server.connect() as sock:
        sock.recv(1)


def test_big_bodies_and_slow_readers(servers: list[Server]) -> None:
    size = 12_000_000
    server = Server(
        SERVER
        + f"""
for sock, peer in connections():
    way = sock.recv(1)
    if way == b"d":
        sock.sendall(bytes(range(256)) * ({size} // 256))
    else:
        time.sleep(0.5)
        done = 0
        while piece := sock.recv(5000):
            done += len(piece)
        sock.sendall(b"%d" % done)
    sock.close()
"""
    )
    servers.append(server)
    whole = bytes(range(256)) * (size // 256)
    with server.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20000)
        sock.sendall(b"d")
        time.sleep(0.5)
        assert read_all(sock) == whole
    with server.connect() as sock:
        sock.sendall(b"u")
        sock.sendall(whole)
        sock.shutdown(socket.SHUT_WR)
        assert int(read_all(sock)) == len(whole)


def test_a_slow_reader_slows_the_sender(servers: list[Server]) -> None:
    server = Server(SERVER + "sock, peer = listener.accept(); print('accepted', flush=True); time.sleep(100)")
    servers.append(server)
    with server.connect() as sock:
        assert server.line() == "accepted"
        sock.setblocking(False)
        sent = 0
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and sent < 100_000_000:
            try:
                sent += sock.send(bytes(65536))
            except BlockingIOError:
                select.select([], [sock], [], 0.3)
        assert sent < 50_000_000  # the host's two buffers, and a little in the sandbox


@pytest.mark.parametrize("backlog", ["0", "5"])
def test_many_at_once(servers: list[Server], backlog: str) -> None:
    server = Server(
        SERVER
        + """
for sock, peer in connections():
    sock.sendall(sock.recv(100))
    sock.close()
""",
        700,
        "-e",
        f"BACKLOG={backlog}",
    )
    servers.append(server)
    answers: list[bytes] = []

    def ask(number: int) -> None:
        with server.connect() as sock:
            sock.sendall(b"%d" % number)
            answers.append(read_all(sock))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answers) == sorted([b"%d" % number for number in range(100)])


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_and_several_ports(servers: list[Server], tmp_path: Path) -> None:
    second = free_port()
    content = os.urandom(3_000_000)
    (tmp_path / "big").write_bytes(content)
    server = Server(
        """
import http.server, threading
for port in (8000, 8001):
    server = http.server.ThreadingHTTPServer(("", port), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)
""",
        8000,
        "-p",
        f"{second}:8001/tcp",
        "-v",
        f"{tmp_path}:{tmp_path}",
        "-w",
        str(tmp_path),
    )
    servers.append(server)
    urls = [f"http://127.0.0.1:{port}/big" for port in (server.port, second) * 4]
    curls = [
        subprocess.Popen(["curl", "-sS", "-m", "50", url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for url in urls
    ]
    for curl in curls:
        assert curl.communicate(timeout=TIMEOUT_S)[0] == content


def test_any_port_is_said(servers: list[Server]) -> None:
    running = Running(
        "sh", "-c", "echo ready; sleep 100", options=("-p", ":80", "-p", "0:81", "-p", "127.0.0.1::82")
    )
    try:
        assert running.wait_for_line() == "ready"
        running.process.terminate()
        text = running.finish().err
    finally:
        running.end()
    found = re.findall(r"^cloche: 127\.0\.0\.1:(\d+) leads to port (\d+)$", text, re.M)
    assert [inside for _port, inside in found] == ["80", "81", "82"] and len({port for port, _ in found}) == 3


def test_it_ends_with_the_sandbox() -> None:
    port = free_port()
    running = Running("sh", "-c", "echo ready; sleep 100", options=("-p", f"{port}:80"))
    try:
        assert running.wait_for_line() == "ready"
        running.process.kill()
        running.process.wait(TIMEOUT_S)
        wait_until(lambda: not alive(running.everyone), "every process ends")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    finally:
        running.end()


def test_nothing_of_the_host_shows() -> None:
    port = free_port()
    outcome = shell("cat /proc/net/tcp /proc/net/tcp6 /proc/net/unix; ls /sys/class/net", "-p", f"{port}:80")
    assert outcome.status == 0
    assert f":{port:04X}" not in outcome.out
    assert outcome.out.split()[-1] == "lo"


@pytest.mark.parametrize(
    "value",
    ["", "80", "80:", "a:80", "0:0", "70000:80", "80:70000", "1.2.3:80:80", "host:80:80", "80:80/udp",
     "1:2:3:4", "[::1:80:80", "-1:80", "[fe80::1%lo]:80:80"],
)  # fmt: skip
def test_a_bad_value(value: str) -> None:
    outcome = run("true", options=(f"--publish={value}",))
    assert outcome.status == 125 and is_one_line(outcome.err), outcome
    assert "-p" in outcome.err


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        outcome = run("true", options=("-p", f"{sock.getsockname()[1]}:80"))
    assert outcome.status == 125 and is_one_line(outcome.err) and "in use" in outcome.err, outcome


def test_an_address_that_the_host_has_not() -> None:
    outcome = run("true", options=("-p", "192.0.2.1:0:80"))
    assert outcome.status == 125 and is_one_line(outcome.err) and "not an address" in outcome.err, outcome


def test_a_flood_that_nobody_accepts(servers: list[Server]) -> None:
    server = Server(
        SERVER
        + """
sys.stdin.readline()  # its end: /dev/null
time.sleep(1)
while True:
    sock, peer = listener.accept()
    try:
        sock.sendall(sock.recv(10))
    except OSError:
        pass
    sock.close()
""",
        700,
        "-e",
        "BACKLOG=3",
    )
    servers.append(server)
    flood = [server.connect() for _number in range(300)]
    for number, sock in enumerate(flood):
        if number & 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    with server.connect() as sock:
        sock.sendall(b"alive")
        assert read_all(sock) == b"alive"


def test_descriptors_travel_and_splice_works(servers: list[Server]) -> None:
    server = Server(
        SERVER
        + """
here, there = socket.socketpair()
if os.fork() == 0:
    here.close()
    while True:
        _data, fds, _flags, _name = socket.recv_fds(there, 1, 1)
        if not fds:
            os._exit(0)
        sock = socket.socket(fileno=fds[0])
        end, start = os.pipe()
        while count := os.splice(sock.fileno(), start, 100000):
            while count:
                count -= os.splice(end, sock.fileno(), count)
        with open("/proc/self/exe", "rb") as file:
            sock.sendfile(file, 0, 200000)
        sock.close()
        os.close(end), os.close(start)
there.close()
for sock, peer in connections():
    socket.send_fds(here, [b"x"], [sock.fileno()])
    sock.close()
"""
    )
    servers.append(server)
    for _turn in range(3):
        with server.connect() as sock:
            sent = os.urandom(300_000)
            reader: list[bytes] = []
            thread = threading.Thread(target=lambda: reader.append(read_all(sock)))  # noqa: B023
            thread.start()
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            thread.join(30)
            assert reader[0][: len(sent)] == sent
            assert len(reader[0]) == len(sent) + 200_000


def test_ipv6(servers: list[Server]) -> None:
    port = free_port()
    running = Running(
        PYTHON,
        "-c",
        """
import socket
listener = socket.create_server(("::", 700), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    sock, peer = listener.accept()
    sock.sendall(repr((peer[0], sock.getsockname()[0])).encode())
    sock.close()
""",
        options=("-p", f"[::1]:{port}:700", "-p", f"{port}:700"),
    )
    try:
        assert running.wait_for_line() == "ready"
        for host, shown in (("::1", "::1"), ("127.0.0.1", "::ffff:127.0.0.1")):
            with socket.create_connection((host, port), timeout=TIMEOUT_S) as sock:
                assert eval(read_all(sock)) == (shown, shown)
    finally:
        running.end()
