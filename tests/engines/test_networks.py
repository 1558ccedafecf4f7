"""Docker's networks with cloche beside Docker's with runc: the addresses that programs reach and see, and the
programs that reach them.
"""

import re
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
    """The answer of a server to a client on the daemon's side, once the server exists."""
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
    script = "until wget -q -O - http://127.0.0.1:81/; do sleep 0.1; done; httpd -p 127.0.0.1:81; echo $?"
    for runtime, other in (("runc", "cloche"), ("cloche", "runc"), ("cloche", "cloche")):
        box = Box(networks, runtime, "first", _WEB.format("127.0.0.1:81"))
        joined = [f"--runtime={other}", f"--network=container:{box.name}"]
        done = networks("run", "--rm", *joined, "bb:1", "sh", "-c", script + "; nc -l -p 81; echo $?")
        assert done.out.splitlines() == ["hello from first", "1", "1"], done
        assert "in use" in done.err
        box.remove()


def test_the_host_s_own_network(networks: Docker, outside: int) -> None:
    for runtime in RUNTIMES:
        box = Box(networks, runtime, "host", _WEB.format("127.0.0.1:90"), "--network=host")
        assert fetch(networks, "http://127.0.0.1:90/") == "hello from host\n"
        there = f"http://127.0.0.1:{outside}/file"
        assert box.execute("wget", "-q", "-O", "-", there).out == "from outside\n"
        assert "docker0" in box.execute("ip", "addr").out
        box.remove()


SEEN = """
ip addr show; ip route; ifconfig; route -n; cat /proc/net/route /proc/net/if_inet6; ls /sys/class/net
cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu /sys/class/net/eth0/operstate
cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range
ip link set lo down; echo $?; ping -c 1 -W 20 $1 | grep packets; ping -c 1 -W 20 127.0.0.1 | grep packets
"""
# Text that differs between two containers of one runtime, and counters.
_OWN = re.compile(r"\b\d+: eth0@if\d+|[RT]X (packets|bytes|errors).*|Interrupt.*")


def test_what_programs_see(networks: Docker) -> None:
    seen = []
    for runtime in RUNTIMES:
        words = ["run", "--rm", f"--runtime={runtime}", "--mac-address=02:42:ac:11:00:99", "bb:1"]
        done = networks(*words, "sh", "-c", SEEN, "sh", "172.17.0.1")
        seen.append((done.status, _OWN.sub("", done.out), done.err))
    assert "172.17.0.2" in seen[0][1] and "1 packets received" in seen[0][1]
    assert seen[0] == seen[1]


def test_names_and_another_network_while_running(networks: Docker) -> None:
    """Docker's resolver at 127.0.0.11; `docker network connect` while programs run."""
    for name in ("one", "two"):
        assert networks("network", "create", name).status == 0
    for runtime in RUNTIMES:
        server = Box(networks, runtime, "server", _WEB.format(80), "--network=one", "--network-alias=here")
        client = Box(networks, runtime, "client", "exec sleep 1000", "--network=two")
        script = "until wget -q -T 20 -O - http://here/; do sleep 0.1; done; ip -o -4 addr | wc -l"
        assert client.execute("sh", "-c", "ip -o -4 addr | wc -l").out == "2\n"
        unknown = client.execute("nslookup", "-type=a", "here")
        assert unknown.status == 1, unknown
        assert networks("network", "connect", "one", client.name).status == 0
        assert client.execute("sh", "-c", script).out == "hello from server\n3\n"
        assert networks("network", "disconnect", "one", client.name).status == 0
        script = "while ip -o -4 addr | grep -q eth1; do sleep 0.1; done; echo gone"
        assert client.execute("sh", "-c", script).out == "gone\n"
        client.remove()
        server.remove()
    for name in ("one", "two"):
        networks("network", "rm", name)


def test_packet_filters_see_the_user(networks: Docker, outside: int) -> None:
    """A rule about users in the container's namespace: sockets belong to the users of programs."""
    for runtime in RUNTIMES:
        box = Box(networks, runtime, "user", "exec sleep 1000")
        pid = networks("inspect", "-f", "{{.State.Pid}}", box.name).out.strip()
        rule = ["-A", "OUTPUT", "-m", "owner", "--uid-owner", "1000", "-j", "REJECT"]
        added = networks.beside(program("nsenter"), "-t", pid, "-n", program("iptables"), *rule)
        if added.status:
            box.remove()
            pytest.skip(f"needs iptables -m owner: {added.err}")
        url = f"http://{box.gateway()}:{outside}/file"
        assert box.execute("wget", "-q", "-O", "-", url).out == "from outside\n"
        refused = networks("exec", "-u", "1000", box.name, "wget", "-q", "-O", "-", url)
        assert refused.status == 1, refused
        assert "refused" in refused.err or "denied" in refused.err or "not permitted" in refused.err, refused
        low = networks("exec", "-u", "1000", box.name, "sh", "-c", "echo x | nc -l -p 82 -w 1; echo $?")
        assert "denied" not in low.err, low
        box.remove()
