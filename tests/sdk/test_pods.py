"""`cloche serve --kubernetes`: sandboxes that are pods, by the official client and an API server of the test's.

Its node is this machine: for each pod it runs what the pod's image would, `cloche serve --pod`, at an address of loopback
that is the pod's own.
"""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("kubernetes", reason="the package kubernetes is not installed")
pytest.importorskip("hypercorn")
pytest.importorskip("e2b_code_interpreter")

from e2b.exceptions import NotFoundException, SandboxException
from e2b_code_interpreter import Sandbox

from tests.cli.harness import wait_until
from tests.sdk.test_serve import CLOCHE, KEYS, WAIT_S, Server, options

NAMESPACE = "boxes"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class Cluster:
    """An API server with one node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pods: dict[str, dict[str, Any]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self.count = 0
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(*cluster.get(self.path.partition("?")[0]))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.answer(*cluster.post(self.path.partition("?")[0], body))

            def do_DELETE(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.answer(*cluster.delete(self.path.partition("?")[0]))

            def answer(self, status: int, fields: dict[str, Any]) -> None:
                cluster.asked.append((self.command, self.path))
                data = json.dumps(fields).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.config = folder / "kubeconfig"
        self.config.write_text(
            json.dumps(
                {
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                    "clusters": [
                        {"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.server.server_port}"}}
                    ],
                    "users": [{"name": "test", "user": {"token": "of-the-endpoint"}}],
                }
            )
        )

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        if path.startswith("/apis/metrics.k8s.io/"):
            usage = {"cpu": "500m", "memory": "64Mi"}
            return 200, {"containers": [{"name": "sandbox", "usage": usage}]}
        pod = self.pods.get(path.removeprefix(PODS + "/"))
        if pod is None:
            return 404, {"kind": "Status", "message": "not found"}
        is_over = self.processes[pod["metadata"]["name"]].poll() is not None
        ready = "True" if self.is_listening(pod) else "False"
        pod["status"] = {
            "phase": "Failed" if is_over else "Running",
            "podIP": pod["address"],
            "conditions": [{"type": "Ready", "status": ready}],
        }
        return 200, pod

    def is_listening(self, pod: dict[str, Any]) -> bool:
        try:
            for port in (49983, 49999):
                socket.create_connection((pod["address"], port), WAIT_S).close()
        except OSError:
            return False
        return True

    def post(self, path: str, pod: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path != PODS:
            return 404, {"kind": "Status", "message": f"namespace of {path} not found"}
        (container,) = pod["spec"]["containers"]
        if container["image"] == "refused":
            return 403, {"kind": "Status", "message": "the quota is exceeded"}
        name = pod["metadata"]["name"]
        self.count += 1
        pod["address"] = f"127.0.{os.getpid() % 200 + 10}.{self.count}"
        env = {**os.environ, **{each["name"]: each["value"] for each in container["env"]}}
        words = [
            CLOCHE,
            "--root",
            str(self.folder / "records"),
            "serve",
            "--pod",
            "--listen",
            f"{pod['address']}:0",
        ]
        nothing = subprocess.DEVNULL
        self.processes[name] = subprocess.Popen(words, stdin=nothing, stdout=nothing, env=env)
        self.pods[name] = pod
        return 201, pod

    def delete(self, path: str) -> tuple[int, dict[str, Any]]:
        name = path.removeprefix(PODS + "/")
        if self.pods.pop(name, None) is None:
            return 404, {"kind": "Status", "message": "not found"}
        self.processes[name].send_signal(signal.SIGTERM)
        return 200, {"kind": "Status", "status": "Success"}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(WAIT_S)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(cluster.config))
        words = ["--kubernetes", NAMESPACE, "--runtime-class", "cloche", "--memory", "512m", "--cpus", "0.5"]
        words += ["--template", "base=image:registry.test/box:1", "--template", "dear=image:refused"]
        words += ["--template", "code-interpreter-v1=image:registry.test/box:1", "--domain", "boxes.test"]
        made = Server(tmp_path_factory.mktemp("endpoint"), *words)
    yield made
    made.close()


def test_a_sandbox_that_is_a_pod(cluster: Cluster, server: Server) -> None:
    box = Sandbox.create(
        timeout=600, envs={"GREETING": "hello"}, metadata={"of": "a test"}, **options(server)
    )
    (pod,) = cluster.pods.values()
    (container,) = pod["spec"]["containers"]
    assert (
        pod["spec"]["runtimeClassName"] == "cloche" and pod["spec"]["automountServiceAccountToken"] is False
    )
    assert container["image"] == "registry.test/box:1"
    assert container["resources"]["limits"] == {"memory": "512Mi", "cpu": "0.5"}
    assert json.loads(pod["metadata"]["annotations"]["cloche/metadata"]) == {"of": "a test"}
    assert box.commands.run("echo $GREETING").stdout == "hello\n"
    box.files.write("/tmp/a", "text")
    assert box.files.read("/tmp/a") == "text"
    assert box.run_code("x = 41\nx + 1").text == "42"
    assert box.get_metrics()[0].mem_used == 64 << 20
    handle = box.commands.run("python3 -m http.server 8080 --directory /tmp", background=True)

    def page() -> tuple[int, bytes]:
        return server.request("GET", "/a", Host=box.get_host(8080))

    wait_until(lambda: page() == (200, b"text"), "a port of it is reached", WAIT_S)
    handle.kill()
    address = urlsplit(box.download_url("/tmp/a", use_signature_expiration=600))
    here = {"E2b_Sandbox_Id": box.sandbox_id, "E2b_Sandbox_Port": "49983"}
    assert server.request("GET", f"{address.path}?{address.query}", **here) == (200, b"text")
    for token in ("", "x", KEYS["ann"]):
        status, _ = server.request("POST", "/process.Process/List", b"{}", X_Access_Token=token, **here)
        assert status == 401
    with pytest.raises(NotFoundException):
        Sandbox.connect(box.sandbox_id, **options(server, "bob"))
    with pytest.raises(SandboxException):
        box.pause()
    name = pod["metadata"]["name"]
    assert box.kill() and not cluster.pods
    wait_until(lambda: cluster.processes[name].poll() is not None, "the pod ends", WAIT_S)


def test_a_pod_that_ends(cluster: Cluster, server: Server) -> None:
    box = Sandbox.create(timeout=600, **options(server))
    (name,) = cluster.pods
    cluster.processes[name].kill()
    cluster.processes[name].wait(WAIT_S)
    wait_until(lambda: not box.is_running(), "the end is seen", WAIT_S)
    with pytest.raises(SandboxException):
        box.commands.run("true")
    short = Sandbox.create(timeout=600, **options(server))
    short.set_timeout(1)
    wait_until(lambda: len(cluster.pods) <= 1, "one whose time is over is deleted", WAIT_S)


def test_what_the_cluster_refuses(server: Server) -> None:
    with pytest.raises(SandboxException, match="quota"):
        Sandbox.create("dear", timeout=600, retries=0, **options(server))
    with pytest.raises(SandboxException, match="NetworkPolicy"):
        Sandbox.create(timeout=600, allow_internet_access=False, retries=0, **options(server))


def test_words_that_make_no_sense(tmp_path: Path) -> None:
    env = {**os.environ, "KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
    env.pop("CLOCHE_POD_TOKEN", None)
    for words, text in (
        (["--kubernetes", "x"], "--template"),
        (["--kubernetes", "x", "--template", "base=/"], "image:REF"),
        (["--kubernetes", "x", "--template", "base=image:a"], "KUBECONFIG"),
        (["--kubernetes", "x", "--template", "base=image:a", "--allow", "a.test"], "NetworkPolicy"),
        (["--pod"], "CLOCHE_POD_TOKEN"),
    ):
        done = subprocess.run(
            [CLOCHE, "serve", *words], capture_output=True, text=True, timeout=WAIT_S, check=False, env=env
        )
        assert done.returncode == 125 and len(done.stderr.splitlines()) == 1 and text in done.stderr, done


def test_a_pod_answers_who_has_its_token(cluster: Cluster, server: Server) -> None:
    import http.client

    box = Sandbox.create(timeout=600, **options(server))
    pod = next(
        pod for pod in cluster.pods.values() if pod["metadata"]["labels"]["cloche-sandbox"] == box.sandbox_id
    )
    deadline = time.monotonic() + WAIT_S
    for method, path in (
        ("POST", "/init"),
        ("POST", "/process.Process/List"),
        ("GET", "/files?path=/etc/passwd"),
    ):
        connection = http.client.HTTPConnection(pod["address"], 49983, timeout=deadline - time.monotonic())
        connection.request(method, path, b"{}", {"Content-Type": "application/json", "X-Access-Token": "x"})
        assert connection.getresponse().status == 401, path
        connection.close()
    box.kill()
