"""`cloche serve`, with the packages of E2B as its clients: their quick starts, and the rights of each key."""

import asyncio
import base64
import http.client
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.images import Maker, busybox_layer

pytest.importorskip("hypercorn")
pytest.importorskip("e2b_code_interpreter")

from e2b import PtySize
from e2b.exceptions import (
    AuthenticationException,
    FileNotFoundException,
    InvalidArgumentException,
    NotFoundException,
    SandboxException,
    TimeoutException,
)
from e2b.sandbox.commands.command_handle import CommandExitException
from e2b_code_interpreter import AsyncSandbox, Sandbox

CLOCHE = str(Path(sys.executable).parent / "cloche")
KEYS = {"ann": "e2b_" + "a" * 40, "bob": "e2b_" + "b" * 40}
WAIT_S = 100


class Server:
    """One that runs."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        keys = folder / "keys"
        keys.write_text("".join(f"{key} {name}\n" for name, key in KEYS.items()))
        keys.chmod(0o600)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        words = [CLOCHE, "--root", str(folder / "records"), "serve", "--listen", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(
            [*words, "--keys", str(keys), *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """Without the packages."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        asked = urllib.request.Request(self.url + path, body or None, names, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=WAIT_S) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def listed(self) -> list[str]:
        """The sandboxes that run, as `cloche list` says."""
        words = [CLOCHE, "--root", str(self.folder / "records"), "list", "--json"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S, check=True)
        return [row["name"] for row in json.loads(done.stdout)]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(WAIT_S)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("serve"))
    yield made
    made.close()


def options(server: Server, who: str = "ann") -> dict[str, Any]:
    return {"api_key": KEYS[who], "api_url": server.url, "sandbox_url": server.url}


@pytest.fixture
def box(server: Server) -> Iterator[Sandbox]:
    made = Sandbox.create(
        timeout=600, metadata={"of": "a test"}, envs={"GREETING": "hello"}, **options(server)
    )
    yield made
    made.kill()


def test_commands(box: Sandbox) -> None:
    done = box.commands.run("echo $GREETING $MORE; pwd; echo err >&2", envs={"MORE": "there"}, cwd="/tmp")
    assert (done.stdout, done.stderr, done.exit_code) == ("hello there\n/tmp\n", "err\n", 0)
    with pytest.raises(CommandExitException) as failed:
        box.commands.run("echo out; exit 3")
    assert failed.value.exit_code == 3 and failed.value.stdout == "out\n"
    seen: list[str] = []
    box.commands.run("echo 1; echo 2", on_stdout=seen.append)
    assert "".join(seen) == "1\n2\n"
    with pytest.raises(TimeoutException):
        box.commands.run("sleep 600", timeout=1)
    for in_background in (False, True):
        with pytest.raises(InvalidArgumentException, match="cwd: .*/none"):
            box.commands.run("true", background=in_background, cwd="/none")


def test_background_commands(box: Sandbox) -> None:
    handle = box.commands.run("cat; echo end", background=True, stdin=True)
    assert [row.pid for row in box.commands.list()] == [handle.pid]
    other = box.commands.connect(handle.pid)
    box.commands.send_stdin(handle.pid, "a line\n")
    box.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == other.wait().stdout == "a line\nend\n"
    sleeper = box.commands.run("sleep 600", background=True)
    assert sleeper.kill()
    with pytest.raises(CommandExitException):
        sleeper.wait()
    assert not box.commands.kill(sleeper.pid) and box.commands.list() == []


def test_input_that_is_not_taken(box: Sandbox, server: Server) -> None:
    handle = box.commands.run("sleep 600", background=True, stdin=True)
    failures: list[Exception] = []

    def write() -> None:
        try:
            box.commands.send_stdin(handle.pid, "x" * (2 << 20), request_timeout=0)
        except Exception as failure:
            failures.append(failure)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    token = box._envd_access_token
    assert token is not None
    here = {"E2b_Sandbox_Id": box.sandbox_id, "E2b_Sandbox_Port": "49983", "X_Access_Token": token}
    body = json.dumps({"process": {"pid": handle.pid}, "input": {"stdin": "AAAA" * (1 << 19)}}).encode()
    status, text = server.request(
        "POST",
        "/process.Process/SendInput",
        body,
        Content_Type="application/json",
        Connect_Timeout_Ms="1",
        **here,
    )
    assert status == 504 and b"deadline_exceeded" in text
    assert writer.is_alive()
    box.commands.close_stdin(handle.pid)
    writer.join(WAIT_S)
    assert not writer.is_alive() and "takes no input" in str(failures[0])
    assert handle.kill()


def test_a_terminal(box: Sandbox) -> None:
    handle = box.pty.create(PtySize(rows=20, cols=60))
    box.pty.send_stdin(handle.pid, b"stty size\n")
    box.pty.resize(handle.pid, PtySize(rows=30, cols=70))
    box.pty.send_stdin(handle.pid, b"stty size; exit\n")
    assert b"30 70" in b"".join(data for _out, _err, data in handle if data)


def test_files(box: Sandbox, server: Server) -> None:
    files = box.files
    assert files.write("/tmp/a/b.txt", "text").path == "/tmp/a/b.txt"
    assert files.read("/tmp/a/b.txt") == "text" and not files.exists("/tmp/a/none")
    data = os.urandom(3 << 20)
    files.write("/tmp/a/data", data)
    assert bytes(files.read("/tmp/a/data", format="bytes")) == data
    assert b"".join(files.read("/tmp/a/data", format="stream")) == data
    with open(__file__, "rb") as stream:
        files.write("/tmp/a/stream", stream, gzip=True)
    assert files.read("/tmp/a/stream") == Path(__file__).read_text()
    files.write_files([{"path": f"/tmp/many/{number}", "data": b"x" * number} for number in range(30)])
    assert sorted(int(entry.name) for entry in files.list("/tmp/many")) == list(range(30))
    info = files.rename("/tmp/a/b.txt", "/tmp/a/c.txt")
    assert (info.name, info.size, info.permissions, info.owner) == (
        "c.txt",
        4,
        "-rw-r--r--",
        "root",
    ) or os.geteuid()
    assert files.make_dir("/tmp/dir") and not files.make_dir("/tmp/dir")
    files.remove("/tmp/a")
    with pytest.raises(FileNotFoundException):
        files.read("/tmp/a/c.txt")
    files.write("/tmp/signed", "for whoever has the address")
    address = box.download_url("/tmp/signed", use_signature_expiration=600)
    path = address.removeprefix(server.url)
    here = {"E2b_Sandbox_Id": box.sandbox_id, "E2b_Sandbox_Port": "49983"}
    assert server.request("GET", path, **here) == (200, b"for whoever has the address")
    assert server.request("GET", path.replace("signed", "other"), **here)[0] == 401


def test_names_and_times_of_a_liar(box: Sandbox) -> None:
    """What the guest chose is shown, however odd; nothing of it makes a call fail."""
    script = """
import os
os.mkdir("/tmp/odd")
os.chdir("/tmp/odd")
open(b"\\xff\\xfe", "w").close()
open("late", "w").close()
try:
    os.utime("late", (1 << 40, 1 << 40))
except OverflowError:
    os.utime("late", (1 << 33, 1 << 33))
os.symlink(b"\\xff", "link")
open("/etc/passwd", "a").write("many:x:" + "9" * 5000 + ":0::/:/bin/sh\\n")
"""
    box.commands.run("cat > /tmp/odd.py <<'E'\n" + script + "\nE\npython3 /tmp/odd.py")
    found = {entry.name: entry for entry in box.files.list("/tmp/odd")}
    assert set(found) == {"\ufffd\ufffd", "late", "link"} and found["link"].symlink_target == "\ufffd"
    watch = box.files.watch_dir("/tmp/odd")
    box.commands.run("cd /tmp/odd && touch $(printf '\\376\\376')")
    events: list[str] = []
    deadline = time.monotonic() + WAIT_S
    while not events and time.monotonic() < deadline:
        events += [event.name for event in watch.get_new_events()]
    assert set(events) == {"\ufffd\ufffd"}


def test_watching(box: Sandbox) -> None:
    box.files.make_dir("/tmp/watched")
    watch = box.files.watch_dir("/tmp/watched")
    box.files.write("/tmp/watched/file", "1")
    seen: list[tuple[str, str]] = []
    deadline = time.monotonic() + WAIT_S
    while not seen and time.monotonic() < deadline:
        seen += [(event.name, event.type.value) for event in watch.get_new_events()]
    assert ("file", "create") in seen
    watch.stop()


def test_code(box: Sandbox) -> None:
    assert box.run_code("x = 41\nprint('hey')\nx + 1").text == "42"
    done = box.run_code("print(x)\n1/0")
    assert done.logs.stdout == ["41\n"] and done.error is not None and done.error.name == "ZeroDivisionError"
    context = box.create_code_context(cwd="/tmp")
    done = box.run_code("import os; print(os.getcwd(), os.environ['A'])\nx", context=context, envs={"A": "1"})
    assert done.logs.stdout == ["/tmp 1\n"] and done.error is not None and done.error.name == "NameError"
    assert {row.id for row in box.list_code_contexts()} >= {context.id}
    box.remove_code_context(context)
    with pytest.raises(NotFoundException):
        box.run_code("1", context=context)
    with pytest.raises(TimeoutException):
        box.run_code("import time; time.sleep(600)", timeout=1)
    assert box.run_code("x").text == "41"  # interrupted, and its state kept
    done = box.run_code("import os; os._exit(3)")
    assert done.error is not None and box.run_code("7").text == "7"
    assert box.run_code("echo $((6*7))", language="bash").logs.stdout == ["42\n"]


def test_life(box: Sandbox, server: Server) -> None:
    info = box.get_info()
    assert info.metadata == {"of": "a test"} and info.state.value == "running"
    assert box.get_metrics()[0].cpu_count >= 1
    box.pause()
    assert box.get_info().state.value == "paused"
    again = Sandbox.connect(box.sandbox_id, timeout=600, **options(server))
    assert again.commands.run("echo again").stdout == "again\n"
    short = Sandbox.create(timeout=600, **options(server))
    short.set_timeout(1)
    deadline = time.monotonic() + WAIT_S
    while short.is_running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not short.is_running() and not Sandbox.kill(short.sandbox_id, **options(server))
    with pytest.raises(SandboxException):
        short.commands.run("true")


def test_without_a_timeout(server: Server) -> None:
    """The package leaves it to the endpoint then: five minutes, also for one that was paused."""
    made = Sandbox.create(**options(server))
    try:
        info = made.get_info()
        assert 290 <= (info.end_at - info.started_at).total_seconds() <= 310
        made.pause()
        again = made.connect()
        assert again.get_info().end_at >= info.end_at
        assert again.commands.run("echo again").stdout == "again\n"
        made.set_timeout(3000)
        ends = made.get_info().end_at
        Sandbox.connect(made.sandbox_id, **options(server))
        assert made.get_info().end_at == ends
    finally:
        made.kill()


def test_who_sees_what(box: Sandbox, server: Server) -> None:
    bob = options(server, "bob")
    assert [row.sandbox_id for row in Sandbox.list(**bob).next_items()] == []
    assert box.sandbox_id in [row.sandbox_id for row in Sandbox.list(**options(server)).next_items()]
    with pytest.raises(NotFoundException):
        Sandbox.connect(box.sandbox_id, **bob)
    assert not Sandbox.kill(box.sandbox_id, **bob) and box.is_running()
    with pytest.raises(AuthenticationException):
        Sandbox.create(api_key="e2b_" + "c" * 40, api_url=server.url, sandbox_url=server.url)
    here = {"E2b_Sandbox_Id": box.sandbox_id, "Content_Type": "application/json", "Connection": "close"}
    for port, path in (("49983", "/process.Process/List"), ("49999", "/contexts")):
        for token in ("", "x", KEYS["ann"]):
            status, _ = server.request(
                "POST", path, b"{}", E2b_Sandbox_Port=port, X_Access_Token=token, **here
            )
            assert status == 401, (port, token)


def test_what_makes_no_sense(box: Sandbox, server: Server) -> None:
    key = {"X_API_Key": KEYS["ann"], "Content_Type": "application/json"}
    for method, path, body, status in (
        ("GET", "/templates", b"", 501),
        ("POST", "/sandboxes", b"{", 400),
        ("POST", "/sandboxes", b"[]", 400),
        ("POST", "/sandboxes", b'{"templateID": "none"}', 404),
        ("POST", "/sandboxes", b'{"templateID": "base", "timeout": -1}', 400),
        ("POST", "/sandboxes", b'{"templateID": "base", "envVars": {"a": 1}}', 400),
        ("POST", "/sandboxes", b'{"templateID": "base", "network": {"allowOut": ["example.com"]}}', 400),
        ("POST", "/sandboxes/" + "x" * 60 + "/pause", b"", 404),
        ("GET", "/v2/sandboxes?limit=x", b"", 400),
    ):
        found, text = server.request(method, path, body, **key)
        assert found == status and json.loads(text)["message"], (path, body, found, text)
    token = box._envd_access_token
    assert token is not None
    here = {"E2b_Sandbox_Id": box.sandbox_id, "E2b_Sandbox_Port": "49983", "X_Access_Token": token}
    for path, body, kind in (
        ("process.Process/Start", b"", "application/connect+json"),
        ("process.Process/Start", struct.pack(">BI", 0, 1 << 30), "application/connect+json"),
        ("process.Process/Start", struct.pack(">BI", 1, 2) + b"{}", "application/connect+json"),
        ("process.Process/Start", struct.pack(">BI", 0, 2) + b"{}", "application/connect+json"),
        (
            "process.Process/SendInput",
            b'{"process": {"pid": 1}, "input": {"stdin": "!"}}',
            "application/json",
        ),
        ("process.Process/Nothing", b"{}", "application/json"),
        ("filesystem.Filesystem/Stat", b'{"path": "a\\u0000b"}', "application/json"),
        ("filesystem.Filesystem/Stat", b"\xff", "application/json"),
        ("filesystem.Filesystem/ListDir", b'{"path": "/", "depth": 1e9}', "application/json"),
        ("filesystem.Filesystem/Stat", b"{}", "application/proto"),
    ):
        status, text = server.request("POST", "/" + path, body, Content_Type=kind, **here)
        assert status >= 400 or b'"error"' in text, (path, body, status, text)
    assert box.commands.run("echo still there").stdout == "still there\n"


def test_asyncio(server: Server) -> None:
    async def program() -> list[str]:
        box = await AsyncSandbox.create(timeout=600, **options(server))
        try:
            done = await asyncio.gather(*[box.commands.run(f"echo {number}") for number in range(10)])
            assert (await box.run_code("6 * 7")).text == "42"
            return [each.stdout for each in done]
        finally:
            await box.kill()

    assert asyncio.run(program()) == [f"{number}\n" for number in range(10)]


WEB = """
import http.server, socketserver, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, body, *headers):
        self.send_response(200)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path == "/nonsense":
            self.wfile.write(b"hello, I am no HTTP\\r\\n\\r\\n")
            self.close_connection = True
        elif self.path == "/pieces":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("X-Hop", "1")
            self.send_header("Connection", "X-Hop")
            self.end_headers()
            for _ in range(300):
                self.wfile.write(b"1000\\r\\n" + b"x" * 4096 + b"\\r\\n")
            self.wfile.write(b"0\\r\\n\\r\\n")
        else:
            seen = f"{self.path} {self.headers['Host']} {self.headers['X-Mine']} {self.headers['E2b-Traffic-Access-Token']}"
            self.answer(seen.encode(), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"))
    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"]))[::-1])
    def log_message(self, *_words):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with a domain."""
    made = Server(tmp_path_factory.mktemp("named"), "--domain", "boxes.test")
    yield made
    made.close()


def test_ports_of_a_sandbox(named: Server) -> None:
    box = Sandbox.create(timeout=600, **options(named))
    host = box.get_host(8080)
    assert host == f"8080-{box.sandbox_id}.boxes.test"
    status, text = named.request("GET", "/", Host=host)
    assert status == 502 and json.loads(text)["port"] == 8080  # nobody listens yet
    box.files.write("/tmp/web.py", WEB)
    box.commands.run("python3 /tmp/web.py", background=True)
    deadline = time.monotonic() + WAIT_S
    while named.request("GET", "/", Host=host)[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    mine = {"X_Mine": "hello", "E2b_Traffic_Access_Token": "secret"}
    assert named.request("GET", "/a%20b?c=d", Host=host, **mine) == (
        200,
        f"/a%20b?c=d {host} hello None".encode(),
    )
    assert named.request("POST", "/", b"abc" * 100_000, Host=host) == (200, b"cba" * 100_000)
    asked = urllib.request.Request(named.url + "/pieces", headers={"Host": host})
    with urllib.request.urlopen(asked, timeout=WAIT_S) as answer:
        assert answer.headers["X-Hop"] is None and answer.read() == b"x" * 4096 * 300
    with urllib.request.urlopen(
        urllib.request.Request(named.url, headers={"Host": host}), timeout=WAIT_S
    ) as answer:
        assert answer.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert named.request("GET", "/nonsense", Host=host)[0] == 502
    # The same, where all have one address
    here = {"E2b_Sandbox_Id": box.sandbox_id, "E2b_Sandbox_Port": "8080"}
    assert named.request("GET", "/x", **here)[1].startswith(b"/x ")
    box.pause()
    assert named.request("GET", "/", Host=host)[0] == 502
    box.kill()
    assert named.request("GET", "/", Host=host)[0] == 502


def test_ports_for_those_with_a_token(named: Server) -> None:
    box = Sandbox.create(timeout=600, network={"allow_public_traffic": False}, **options(named))
    host, token = box.get_host(9), box.traffic_access_token
    assert token is not None
    assert named.request("GET", "/", Host=host)[0] == 403
    assert named.request("GET", "/", Host=host, E2b_Traffic_Access_Token="x")[0] == 403
    assert named.request("GET", "/", Host=host, E2b_Traffic_Access_Token=token)[0] == 502  # nobody listens
    box.kill()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with TLS, by an authority of its own."""
    folder = tmp_path_factory.mktemp("secure")
    made = Server(folder, "--domain", "boxes.test", "--tls", str(folder / "tls"))
    yield made
    made.close()


def test_an_authority_of_its_own(secure: Server) -> None:
    import ssl

    folder = secure.folder / "tls"
    assert {path.name: path.stat().st_mode & 0o77 for path in folder.glob("*key*")} == {
        "ca-key.pem": 0,
        "server-key.pem": 0,
    }
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    for name, is_good in (
        ("api.boxes.test", True),
        ("49983-i0123.boxes.test", True),
        ("127.0.0.1", True),
        ("example.com", False),
        ("a.b.boxes.test", False),
    ):
        with socket.create_connection(("127.0.0.1", secure.port), WAIT_S) as sock:
            try:
                context.wrap_socket(sock, server_hostname=name).close()
                assert is_good, name
            except ssl.SSLCertVerificationError:
                assert not is_good, name
    script = (
        "from e2b_code_interpreter import Sandbox\nwith Sandbox.create(timeout=600) as box:\n"
        "    print(box.commands.run('echo hi').stdout, box.run_code('6 * 7').text)"
    )
    url = f"https://127.0.0.1:{secure.port}"
    env = {**os.environ, "E2B_API_KEY": KEYS["ann"], "E2B_API_URL": url, "E2B_SANDBOX_URL": url}
    env["SSL_CERT_FILE"] = str(folder / "ca.pem")
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.stdout == "hi\n 42\n", done


def test_an_authority_is_kept(tmp_path: Path) -> None:
    from cryptography import x509

    from cloche.serve.authority import prepare

    folder = str(tmp_path / "a")
    certificate, _key, believed = prepare(folder, "boxes.test:3000", "127.0.0.1")
    first = (Path(certificate).read_bytes(), Path(believed).read_bytes())
    prepare(folder, "boxes.test:3000", "127.0.0.1")
    assert Path(believed).read_bytes() == first[1] and Path(certificate).read_bytes() != first[0]
    constraints = x509.load_pem_x509_certificate(first[1]).extensions.get_extension_for_class(
        x509.NameConstraints
    )
    assert constraints.critical and x509.DNSName("boxes.test") in (constraints.value.permitted_subtrees or ())
    prepare(folder, "other.test", "127.0.0.1")  # it may not vouch for that: another
    assert Path(believed).read_bytes() != first[1]
    Path(believed).write_text("nonsense")
    with pytest.raises(ValueError):
        prepare(folder, "other.test", "127.0.0.1")


ECHO = """
import base64, hashlib, socket
server = socket.create_server(("127.0.0.1", 8090))
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += peer.recv(1)
    key = [line.split(b": ")[1] for line in head.split(b"\\r\\n") if line.lower().startswith(b"sec-websocket-key")][0]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    peer.sendall(b"HTTP/1.1 101 Yes\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n")
    frame = peer.recv(2 + 4 + 5)
    text = bytes(each ^ frame[2 + at % 4] for at, each in enumerate(frame[6:]))
    peer.sendall(b"\\x81\\x05" + text[::-1] + b"\\x88\\x02\\x03\\xe8")
    peer.recv(100)
    peer.close()
"""


def test_a_web_socket(named: Server) -> None:
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

    box = Sandbox.create(timeout=600, **options(named))
    box.files.write("/tmp/echo.py", ECHO)
    handle = box.commands.run("python3 /tmp/echo.py", background=True)
    assert next(iter(handle))[0] == "ready\n"
    client = WSConnection(ConnectionType.CLIENT)
    events: list[Any] = []
    with socket.create_connection(("127.0.0.1", named.port), WAIT_S) as sock:
        sock.sendall(client.send(Request(host=box.get_host(8090), target="/chat?a=b")))
        while not any(isinstance(event, CloseConnection) for event in events):
            data = sock.recv(65536)
            client.receive_data(data or None)
            for event in client.events():
                events.append(event)
                if isinstance(event, AcceptConnection):
                    sock.sendall(client.send(TextMessage(data="hello")))
            assert data
    assert [event.data for event in events if isinstance(event, TextMessage)] == ["olleh"]
    box.kill()


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_the_end_of_the_server_ends_its_sandboxes(tmp_path: Path, how: str) -> None:
    server = Server(tmp_path)
    Sandbox.create(timeout=600, **options(server))
    assert len(server.listed()) == 1
    getattr(server.process, how)()
    assert server.process.wait(WAIT_S) == (0 if how == "terminate" else -9)
    deadline = time.monotonic() + WAIT_S
    while server.listed():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_limit_of_sandboxes(tmp_path: Path) -> None:
    server = Server(tmp_path, "--max-sandboxes", "1")
    try:
        first = Sandbox.create(timeout=600, **options(server))
        with pytest.raises(SandboxException, match="max-sandboxes"):
            Sandbox.create(timeout=600, retries=0, **options(server))
        Sandbox.create(timeout=600, **options(server, "bob")).kill()
        first.kill()
    finally:
        server.close()


def test_words_that_make_no_sense(tmp_path: Path) -> None:
    open_keys = tmp_path / "keys"
    open_keys.write_text("e2b_aaaaaaaaaaaaaaaaaaaaaaa me\n")
    open_keys.chmod(0o644)
    for words, text in (
        (["--listen", "nowhere"], "ADDRESS:PORT"),
        (["--keys", "/nothing"], "No such file"),
        (["--keys", str(open_keys)], "chmod 600"),
        (["--template", "x=/nothing"], "NAME=ROOT"),
        (["--tls-cert", "/x"], "go together"),
        (["--tls", "/proc/none"], "--tls"),
        (["--listen", "203.0.113.1:1"], "--listen"),
    ):
        done = subprocess.run(
            [CLOCHE, "serve", *words], capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert done.returncode == 125 and len(done.stderr.splitlines()) == 1 and text in done.stderr, done


SCRIPT = """
import { Sandbox } from '@e2b/code-interpreter'
const box = await Sandbox.create({timeoutMs: 600000})
const done = await box.commands.run('echo hi; echo err >&2')
await box.files.write('/tmp/a.txt', 'hello')
const cell = await box.runCode('x = 1\\nx + 1')
const cat = await box.commands.run('cat', {background: true, stdin: true})
await box.commands.sendStdin(cat.pid, 'abc\\n')
await box.commands.closeStdin(cat.pid)
console.log(JSON.stringify([done.stdout, done.stderr, await box.files.read('/tmp/a.txt'), cell.text, (await cat.wait()).stdout]))
await box.kill()
"""


def test_the_package_of_npm(tmp_path: Path, server: Server) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("needs node and npm")
    words = [npm, "install", "--no-audit", "--no-fund", "e2b@2", "@e2b/code-interpreter@2"]
    try:
        installed = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=200, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("needs npm's registry")
    if installed.returncode != 0:
        pytest.skip("needs npm's registry")
    (tmp_path / "script.mjs").write_text(SCRIPT)
    env = {
        **os.environ,
        "E2B_API_KEY": KEYS["ann"],
        "E2B_API_URL": server.url,
        "E2B_SANDBOX_URL": server.url,
    }
    done = subprocess.run(
        [node, "script.mjs"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done
    assert json.loads(done.stdout) == ["hi\n", "err\n", "hello", "2", "abc\n"]


def test_a_template_of_an_image(tmp_path: Path) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("needs busybox")
    (tmp_path / "layout").mkdir()
    Maker(tmp_path / "layout").image([busybox_layer()], {"Env": ["OF=the image"], "WorkingDir": "/home"})
    server = Server(tmp_path, "--template", f"tiny=image:{tmp_path / 'layout'}")
    try:
        box = Sandbox.create("tiny", timeout=600, **options(server))
        # Commands of E2B's packages are bash's, which busybox is not.
        token = box._envd_access_token
        assert token is not None
        start = json.dumps(
            {"process": {"cmd": "/bin/sh", "args": ["-c", 'printf %s "$OF at $PWD"']}}
        ).encode()
        status, text = server.request(
            "POST",
            "/process.Process/Start",
            struct.pack(">BI", 0, len(start)) + start,
            Content_Type="application/connect+json",
            E2b_Sandbox_Id=box.sandbox_id,
            E2b_Sandbox_Port="49983",
            X_Access_Token=token,
        )
        assert status == 200 and base64.b64encode(b"the image at /home") in text, text
        box.kill()
    finally:
        server.close()


def test_a_connection_is_kept_for_those_that_keep_it(server: Server) -> None:
    """As E2B's clients do; hypercorn would end it after five seconds, when they may just be writing to it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    for pause_s in (0, 6):
        time.sleep(pause_s)
        connection.request("GET", "/health")
        connection.getresponse().read()
    connection.close()


def test_an_answer_comes_when_all_has_been_read(server: Server) -> None:
    """The connection would end with an earlier one, and a client that was still writing would have none."""
    head = f"DELETE /sandboxes/none HTTP/1.1\r\nHost: here\r\nX-Api-Key: {KEYS['ann']}\r\nContent-Length: 2\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as client:
        for _turn in range(2):
            client.sendall(head.encode())
            assert not select.select([client], [], [], 0.5)[0]
            client.sendall(b"{}")
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += client.recv(65536)
            length = int(answer.lower().partition(b"content-length:")[2].partition(b"\r")[0])
            while len(answer.partition(b"\r\n\r\n")[2]) < length:
                answer += client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 404 "), answer
