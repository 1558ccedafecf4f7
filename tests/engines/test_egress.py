"""Rules for what containers connect to, with Docker's networks: the operator's (`--egress`), and annotations."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.egress.audit import broken_line
from tests.engines.harness import TIMEOUT_S, Docker, Done

NET = "guarded-net"
_WEB = "echo this is $1 > /tmp/index.html; httpd -p 81 -h /tmp; exec httpd -f -p 80 -h /tmp"
RULES = """
version = 1
[[allow]]
host = "web.good.test"
ports = [80]
internal = true
"""


class Nets:
    """A network with two servers that runc runs: web.good.test, and other.test."""

    def __init__(self, docker: Docker) -> None:
        self.docker = docker
        made = docker("network", "create", NET)
        assert made.status == 0, made
        self.names: list[str] = []
        self.addresses = {
            name: self.start(name, "runc", ["sh", "-c", _WEB, "sh", name], "--network-alias", alias)
            for name, alias in (("web", "web.good.test"), ("other", "other.test"))
        }

    def start(self, name: str, runtime: str, command: list[str], *options: str) -> str:
        """A container; its address."""
        self.names.append(name)
        words = ["run", "-d", "--name", name, f"--runtime={runtime}", f"--network={NET}", *options]
        done = self.docker(*words, "bb:1", *command)
        assert done.status == 0, done
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.docker("inspect", "-f", template, name).out.strip()

    def inside(self, name: str, script: str) -> Done:
        return self.docker("exec", name, "sh", "-c", script)

    def close(self) -> None:
        self.docker("rm", "-f", *self.names)
        self.docker("network", "rm", NET)


@pytest.fixture(scope="module")
def nets(networks: Docker) -> Iterator[Nets]:
    made = Nets(networks)
    try:
        yield made
    finally:
        made.close()


def fetched(nets: Nets, name: str, url: str) -> str:
    done = nets.inside(name, f"wget -T 60 -q -O - {url} 2>&1")
    return done.out.strip()


def log_of(nets: Nets, name: str) -> list[str]:
    ident = nets.docker("inspect", "-f", "{{.Id}}", name).out.strip()
    found = list(nets.docker.folder.rglob(f"{ident}/egress.log")) or list(
        Path("/run").glob(f"docker/runtime-*/*/{ident}/egress.log")
    )
    return found[0].read_text().splitlines()


def test_an_annotation(nets: Nets) -> None:
    options = ("--annotation", f"dev.cloche.egress={RULES}", "--sysctl", "net.ipv4.ping_group_range=0 70000")
    mine = nets.start("asking", "cloche", ["sleep", "1000"], *options)
    assert fetched(nets, "asking", "http://web.good.test/") == "this is web"
    other = nets.addresses["other"]
    for url in ("http://other.test/", f"http://{other}/", f"http://{nets.addresses['web']}/"):
        assert "this is" not in fetched(nets, "asking", url), url
    assert "bad address" in fetched(nets, "asking", "http://other.test/")
    assert "Permission denied" in fetched(nets, "asking", f"http://{other}/")
    assert "Permission denied" in fetched(nets, "asking", "http://web.good.test:81/")
    # Docker's own resolver, which would ask for any name, cannot be reached at any of its ports.
    looked_up = nets.inside("asking", "nslookup other.test 127.0.0.11; nslookup other.test 127.0.0.53")
    assert other not in looked_up.out, looked_up
    assert "Connection refused" in fetched(nets, "asking", "http://127.0.0.1:8/")
    for script in (f"ping -c 1 -W 5 {other}", f"echo x | nc -u -w 1 {other} 80", "ping -c 1 -W 5 8.8.8.8"):
        assert "bytes from" not in nets.inside("asking", script).out, script
    # Incoming connections are as before: at the container's own addresses, and from others.
    nets.inside("asking", "mkdir /tmp/w; echo mine > /tmp/w/index.html; httpd -p 80 -h /tmp/w")
    for where in ("127.0.0.1", mine):
        assert fetched(nets, "asking", f"http://{where}/") == "mine"
    deadline = time.monotonic() + TIMEOUT_S
    while fetched(nets, "other", f"http://{mine}/") != "mine":
        assert time.monotonic() < deadline
    lines = log_of(nets, "asking")
    assert any('"web.good.test"' in line and '"Allowed"' in line for line in lines), lines
    assert any('"other.test"' in line and '"Blocked"' in line for line in lines), lines
    assert broken_line(lines) == -1


def test_the_operator_s_rules(nets: Nets) -> None:
    """An annotation narrows them, and adds nothing."""
    nets.start("operated", "guarded", ["sleep", "1000"])
    assert fetched(nets, "operated", "http://web.good.test/") == "this is web"
    assert fetched(nets, "operated", "http://web.good.test:81/") == "this is web"
    assert "bad address" in fetched(nets, "operated", "http://other.test/")
    everything = (
        'version = 1\n[[allow]]\nhost = "other.test"\ninternal = true\n[[allow]]\nhost = "web.good.test"\n'
        'ports = [80]\nprotocol = "tcp"\ninternal = true\n[[allow]]\naddress = "0.0.0.0/0"\nports = ["1-65535"]\n'
    )
    nets.start("wanting", "guarded", ["sleep", "1000"], "--annotation", f"dev.cloche.egress={everything}")
    assert fetched(nets, "wanting", "http://web.good.test/") == "this is web"
    assert "Permission denied" in fetched(nets, "wanting", "http://web.good.test:81/")
    assert "bad address" in fetched(nets, "wanting", "http://other.test/")
    assert "Permission denied" in fetched(nets, "wanting", f"http://{nets.addresses['other']}/")
    # The operator's rule reads the requests, even if the annotation declares them as tcp.
    script = "printf 'GET / HTTP/1.1\\r\\nHost: other.test\\r\\n\\r\\n' | nc web.good.test 80"
    assert "421" in nets.inside("wanting", script).out


def test_annotations_that_say_no_rules(nets: Nets) -> None:
    for text, says in (
        ("web:0", "web:0"),
        ("version = 1\nnonsense = 2", "line 2"),
        ("= =", "Invalid statement"),
    ):
        words = ("run", "--rm", "--runtime=cloche", "--annotation", f"dev.cloche.egress={text}")
        done = nets.docker(*words, "bb:1", "true")
        assert done.status != 0 and f"annotation dev.cloche.egress: {says}" in done.err, done
