"""Docker's networks with cloche beside Docker's with runc: what programs reach, see and are reached by."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.harness import TIMEOUT_S, Docker, Done, end, program

RUNTIMES = ("runc", "cloche")
_WEB = "echo hello from $(hostname) > /tmp/index.html; exec httpd -f -p {} -h /tmp"


class Box:
    """A container that runs until it is removed."""

    def __init__(self, docker: Docker, runtime: str, name: str, script: str, *options: str) -> None:
        self.docker = docker
        self.name = f"{runtime}-{name}"
        words = ["run", "-d", "--name", self.name, "--hostname", name, f"--runtime={runtime}", *options]
        done = docker(*words, "bb:1", "sh", "-c", script)
        assert done.status == 0, done

    def execute(self, *words: str) -> Done:
        return self.docker("exec", self.name, *words)

    def address(self) -> str:
        return self.docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", self.name).out.strip()

    def gateway(self) -> str:
        return self.docker("inspect", "-f", "{{.NetworkSettings.Gateway}}", self.name).out.strip()

    def remove(self) -> None:
        self.docker("rm", "-f", self.name)


def fetch(docker: Docker, url: str) -> str:
    """What a server says to a client on the daemon's side, once there is one."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        done = docker.beside(program("busybox"), "wget", "-T", "20", "-q", "-O", "-", url)
        if done.status == 0 or time.monotonic() > deadline:
            return done.out
        time.sleep(0.1)


@pytest.fixture
def outside(networks: Docker, tmp_path: Path) -> Iterator[int]:
    """A server on the daemon's side; its port."""
    (tmp_path / "file").write_text("from outside\n")
    words = [
        *(program("nsenter"), "-t", str(networks.daemon.pid), "-n"),
        *(program("busybox"), "httpd", "-f", "-p", "7000", "-h", str(tmp_path)),
    ]
    server = subprocess.Popen(words)
    assert fetch(networks, "http://127.0.0.1:7000/file") == "from outside\n"
    yield 7000
    end(server)


def test_a_published_port(networks: Docker) -> None:
    for runtime in RUNTIMES:
        box = Box(networks, runtime, "web", _WEB.format(80), "-p", "127.0.0.1:8080:80")
        assert fetch(networks, "http://127.0.0.1:8080/") == "hello from web\n"
        assert fetch(networks, f"http://{box.address()}:80/") == "hello from web\n"
        for where in ("127.0.0.1", box.address()):
            assert box.execute("wget", "-q", "-O", "-", f"http://{where}/").out == "hello from web\n"
        box.remove()


def test_the_way_out(networks: Docker, outside: int) -> None:
    for runtime in RUNTIMES:
        box = Box(networks, runtime, "client", "exec sleep 1000")
        there = f"http://{box.gateway()}:{outside}/file"
        assert box.execute("wget", "-q", "-O", "-", there).out == "from outside\n"
        refused = box.execute("wget", "-q", "-O", "-", f"http://{box.gateway()}:7001/")
        assert refused.status == 1 and "Connection refused" in refused.err
        box.remove()
        none = Box(networks, runtime, "alone", "exec sleep 1000", "--network=none")
        unreachable = none.execute("wget", "-q", "-O", "-", there)
        assert unreachable.status == 1 and "Network is unreachable" in unreachable.err
        refused = none.execute("wget", "-q", "-O", "-", "http://127.0.0.1/")
        assert refused.status == 1 and "Connection refused" in refused.err
        none.remove()


def test_a_shared_namespace(networks: Docker) -> None:
    """A container in another's network, and what listens at loopback there; ports are one space."""
    for runtime in RUNTIMES:
        for other in RUNTIMES:
            box = Box(networks, runtime, "first", _WEB.format("127.0.0.1:81"))
            joined = [f"--runtime={other}", f"--network=container:{box.name}"]
            script = (
                "until wget -q -O - http://127.0.0.1:81/; do sleep 0.1; done; httpd -p 127.0.0.1:81; echo $?"
            )
            done = networks("run", "--rm", *joined, "bb:1", "sh", "-c", script + "; nc -l -p 81; echo $?")
            assert done.out.splitlines() == ["hello from first", "1", "1"], done
            assert "in use" in done.err
            box.remove()
