"""`cloche pull` and `push` against Debian's docker-registry, on loopback."""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import environment, is_one_line, wait_until
from tests.cli.images import Images, LayerTar, Maker, busybox_layer


class Server:
    """A registry that can be killed and started again."""

    def __init__(self, top: Path) -> None:
        program = shutil.which("docker-registry")
        if program is None:
            pytest.skip("docker-registry is not installed")
        self.program = program
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.config = top / "registry.yml"
        self.config.write_text(
            f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {top}/registry}}\n"
            f"  delete: {{enabled: true}}\nhttp: {{addr: '{self.host}'}}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self.program, "serve", str(self.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self.answers, "the registry answers")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.host}/v2/", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.kill()


def test_push_and_pull(images: Images, layout: Maker, server: Server) -> None:
    digest = layout.image([busybox_layer()], {"Cmd": ["/bin/echo", "hello"]}, "tool:1")
    assert images("load", "-i", "layout").status == 0
    name = f"{server.host}/team/tool:1"
    pushed = images("push", "tool:1", name)
    assert pushed.out == digest + "\n", pushed
    assert images("push", "tool:1", name).out == digest + "\n"
    assert images("rmi", "tool:1").status == 0
    missing = images("run", "--image", f"{server.host}/team/other")
    assert missing.status == 125 and is_one_line(missing.err)
    assert images.run(name) == "hello\n"
    assert images("pull", f"{server.host}/team/tool@{digest}").out == digest + "\n"


def big_layer(seed: int) -> bytes:
    return LayerTar().add(f"big{seed}", random.Random(seed).randbytes(6 << 20)).bytes()


def test_pulls_at_once_survive_the_death_of_the_registry(
    images: Images, layout: Maker, server: Server
) -> None:
    """24 pulls, the registry killed and started again in between, then half of the pulls killed and made again."""
    digest = layout.image(
        [busybox_layer(), *[big_layer(seed) for seed in range(4)]], {"Cmd": ["/bin/ls", "/big3"]}, "big:1"
    )
    assert images("load", "-i", "layout").status == 0
    name = f"{server.host}/big:1"
    assert images("push", "big:1", name).status == 0
    assert images("prune", "-a").status == 0
    store = images.data / "cloche" / "images"
    words = [*images.words, "pull", "-q", name]
    env = environment(XDG_DATA_HOME=str(images.data))
    pulls = [
        subprocess.Popen(words, cwd=images.top, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _each in range(24)
    ]
    wait_until(
        lambda: list((store / "partial").iterdir()) or list((store / "blobs").iterdir()), "a pull begins"
    )
    server.kill()
    server.start()
    for pull in pulls[:12]:
        pull.send_signal(signal.SIGKILL)
    outcomes = [(pull, *pull.communicate(timeout=300)) for pull in pulls]
    for pull, out, err in outcomes[12:]:
        assert pull.returncode == 0 and out.decode() == digest + "\n", err.decode()
    assert images("pull", name).out == digest + "\n"
    for blob in (store / "blobs").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    assert images.run(name) == "/big3\n"
    assert images("prune").status == 0
    assert not list((store / "partial").iterdir())


def test_a_blob_is_continued_where_it_was(images: Images, layout: Maker, server: Server) -> None:
    digest = layout.image([busybox_layer(), big_layer(1)], {"Cmd": ["/bin/ls", "/big1"]}, "big:1")
    assert images("load", "-i", "layout").status == 0
    name = f"{server.host}/big:1"
    assert images("push", "big:1", name).status == 0
    assert images("prune", "-a").status == 0
    layer = json.loads((layout.blobs / digest[7:]).read_text())["layers"][1]["digest"][7:]
    whole = (layout.blobs / layer).read_bytes()
    partial = images.data / "cloche" / "images" / "partial" / layer
    partial.write_bytes(whole[: 3 << 20])
    assert images("pull", name).status == 0
    assert images("prune", "-a").status == 0
    partial.write_bytes(b"x" * (3 << 20))  # wrong data is thrown away, and the next pull is right
    refused = images("pull", name)
    assert refused.status == 125 and is_one_line(refused.err) and "digest" in refused.err
    assert images("pull", name).status == 0
    assert images.run(name) == "/big1\n"


def test_a_registry_that_lies_is_not_believed(
    images: Images, layout: Maker, server: Server, tmp_path: Path
) -> None:
    digest = layout.image([busybox_layer()], {"Cmd": ["/bin/true"]}, "tool:1")
    assert images("load", "-i", "layout").status == 0
    assert images("push", "tool:1", f"{server.host}/tool:1").status == 0
    assert images("prune", "-a").status == 0
    for folder in (tmp_path / "registry").rglob(digest[7:]):
        if (folder / "data").exists():
            data = (folder / "data").read_bytes()
            os.chmod(folder / "data", 0o600)
            (folder / "data").write_bytes(data.replace(b"config", b"konfig"))
    refused = images("pull", f"{server.host}/tool@{digest}")
    assert refused.status == 125 and is_one_line(refused.err), refused


def serve_without_end(listener: socket.socket, status: str, taken: list[int]) -> None:
    """Answer every request with an endless body; `taken`: how many bytes of each were read."""
    while True:
        try:
            client = listener.accept()[0]
        except OSError:
            return  # shut down
        with client:
            client.settimeout(60)
            count = 0
            try:
                client.recv(65536)
                realm = f'Bearer realm="http://127.0.0.1:{client.getsockname()[1]}/token",service="s"'
                client.sendall(f"HTTP/1.1 {status} No\r\nWWW-Authenticate: {realm}\r\n\r\n".encode())
                while count < 1 << 28:
                    client.sendall(bytes(1 << 16))
                    count += 1 << 16
            except OSError:
                pass
            taken.append(count)


@pytest.mark.parametrize("status", ["400", "401"])
def test_answers_without_an_end(images: Images, status: str) -> None:
    """Of errors and tokens little is read, however much comes."""
    taken: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_without_end, args=(listener, status, taken))
        thread.start()
        try:
            done = images("pull", f"127.0.0.1:{listener.getsockname()[1]}/tool:1")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert done.status == 125 and is_one_line(done.err), done
    assert taken and max(taken) < 1 << 25, taken
