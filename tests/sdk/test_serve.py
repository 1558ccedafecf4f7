"""`cloche serve`, with the packages of E2B as its clients: their quick starts, and the rights of each key."""

import asyncio
import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
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
