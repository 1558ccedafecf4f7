"""Two network namespaces that the test makes: "outside" with servers, and "host", where the sandbox is started."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cli.harness import CLOCHE, environment
from tests.egress.servers import ADDRESSES, LINK_INSIDE, LINK_OUTSIDE, RESOLVER

TIMEOUT_S = 150
# A beginning of rules that inspects connections to `InspectedWorld`'s further server.
RULE = 'version = 1\nauthorities = ["cert.pem"]\n[[allow]]\nhost = "good.test"\nports = [9443, 9444]\ninspect = true\n'
NAMES = (
    "good.test,*.good.test,other.test,evil.test,shared.test,xn--bcher-kva.test,"
    "private.test,mixed.test,rebind.test,alias-good.test"
)


def missing() -> str:
    """Why there can be no such world; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces are made by root"
    for tool in ("unshare", "nsenter", "ip", "openssl"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    probe = subprocess.run(
        ["unshare", "-n", "sh", "-c", "ip link add name cea type veth peer name ceb && ip link set lo up"],
        capture_output=True,
        check=False,
    )
    return "" if probe.returncode == 0 else "no network namespaces, or no veth"


class Outcome:
    """The output of an attempt, and the arrivals outside."""

    def __init__(self, status: int, out: str, err: str, seen: dict[str, Any]) -> None:
        self.status = status
        self.out = out
        self.err = err
        self.queries: list[tuple[str, int]] = [tuple(each) for each in seen["queries"]]
        self.requests: list[str] = seen["requests"]
        self.hellos: list[str] = seen["hellos"]
        self.received: list[str] = seen["received"]
        self.packets: set[tuple[int, str, int]] = {tuple(each) for each in seen["packets"]}

    def __repr__(self) -> str:
        return (
            f"status {self.status}\n--- out\n{self.out}\n--- err\n{self.err}\n--- outside\n"
            f"packets {sorted(self.packets)}\nqueries {self.queries}\nrequests {self.requests}\n"
            f"hellos {self.hellos}\nreceived {self.received}"
        )


class World:
    """The namespaces and the servers."""

    SERVERS = "tests.egress.servers"  # the module that is run outside

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._make_certificate()
        self.outside = subprocess.Popen(
            ["unshare", "-n", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.host = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for holder in (self.outside, self.host):  # it echoes once it is in its namespace
            assert holder.stdin is not None and holder.stdout is not None
            holder.stdin.write(b"x\n")
            holder.stdin.flush()
            holder.stdout.readline()
        self._link()
        self.servers = subprocess.Popen(
            [*self.enter(self.outside), sys.executable, "-m", self.SERVERS, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert self.servers.stdout is not None
        assert self.servers.stdout.readline() == "ready\n"

    def _make_certificate(self) -> None:
        names = ",".join([f"DNS:{name}" for name in NAMES.split(",")])
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", str(self.folder / "key.pem"), "-out", str(self.folder / "cert.pem"), "-days", "3650",
             "-subj", "/CN=good.test", "-addext", f"subjectAltName={names}"],
            check=True,
            capture_output=True,
        )  # fmt: skip

    def _link(self) -> None:
        outside, host = self.outside.pid, self.host.pid
        name = f"ce{os.getpid() % 100000}"
        commands = [
            ["ip", "link", "add", f"{name}s", "type", "veth", "peer", "name", f"{name}h"],
            ["ip", "link", "set", f"{name}s", "netns", str(outside)],
            ["ip", "link", "set", f"{name}h", "netns", str(host)],
        ]
        inside = [
            (self.outside, f"ip link set {name}s name vs"),
            (self.outside, f"ip link set lo up; ip addr add {LINK_OUTSIDE}/30 dev vs; ip link set vs up"),
            *[(self.outside, f"ip addr add {address}/32 dev lo") for address in ADDRESSES],
            (self.host, f"ip link set {name}h name vh"),
            (self.host, f"ip link set lo up; ip addr add {LINK_INSIDE}/30 dev vh; ip link set vh up"),
            (self.host, f"ip route add default via {LINK_OUTSIDE}"),
            # So that only a refusal can stop attempts by IPv6.
            (self.outside, "ip -6 addr add fd00:77::1/64 dev vs nodad || true"),
            (self.host, "ip -6 addr add fd00:77::2/64 dev vh nodad || true"),
            (self.host, "ip -6 route add default via fd00:77::1 || true"),
        ]
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
        for holder, script in inside:
            subprocess.run([*self.enter(holder), "sh", "-ec", script], check=True, capture_output=True)

    @staticmethod
    def enter(holder: "subprocess.Popen[bytes]") -> list[str]:
        """The start of a command that runs in a namespace."""
        return ["nsenter", "-t", str(holder.pid), "-n"]

    def collect(self) -> dict[str, Any]:
        """The arrivals since the last call."""
        assert self.servers.stdin is not None and self.servers.stdout is not None
        self.servers.stdin.write("collect\n")
        self.servers.stdin.flush()
        found: dict[str, Any] = json.loads(self.servers.stdout.readline())
        return found

    def words(self, *options: str, name: str = "") -> list[str]:
        """The start of a sandbox's command line, up to `--`; CLOCHE_EGRESS_PREFIX names another sandbox's."""
        prefix = os.environ.get("CLOCHE_EGRESS_PREFIX")
        if prefix:
            return [*self.enter(self.host), *prefix.split()]
        return [*self.enter(self.host), *CLOCHE, "run", "--dns", RESOLVER, *options, "--"]

    def run(self, command: list[str], *options: str, cwd: Path | None = None) -> Outcome:
        """Run a command in a sandbox with these options, which have a rule at least."""
        self.collect()
        done = subprocess.run(
            [*self.words(*options), *command],
            cwd=cwd or self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Outcome(
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
            self.collect(),
        )

    def python(self, script: str, *options: str) -> Outcome:
        """Run a script of Python."""
        return self.run(["python3", "-c", script], *options)

    def close(self) -> None:
        """End all of it; the namespaces go with their processes."""
        for process in (self.servers, self.outside, self.host):
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


class InspectedWorld(World):
    """With a server that speaks HTTP/2 as well."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.origin = subprocess.Popen(
            [*self.enter(self.outside), sys.executable, "-m", "tests.egress.origin", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert self.origin.stdout is not None
        assert self.origin.stdout.readline() == "ready\n"
        self.number = 0

    def rules(self, text: str) -> str:
        """A file of rules."""
        self.number += 1
        path = self.folder / f"rules{self.number}.toml"
        path.write_text(text)
        return str(path)

    def inspected(self, script: str, more: str = "", start: str = RULE) -> Outcome:
        """Run a shell script behind an inspected rule that says `more`."""
        self.seen()
        return self.run(
            ["sh", "-c", script], "--net", self.rules(start + more), "--net-log", str(self.folder / "log")
        )

    def seen(self) -> list[tuple[str, str, str, dict[str, str], str]]:
        """The requests to the server since the last call."""
        assert self.origin.stdin is not None and self.origin.stdout is not None
        self.origin.stdin.write("collect\n")
        self.origin.stdin.flush()
        found = json.loads(self.origin.stdout.readline())
        return [
            (version, method, target, dict(headers), body) for version, method, target, headers, body in found
        ]

    def log(self) -> list[dict[str, object]]:
        """The lines of the log."""
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    def close(self) -> None:
        self.origin.kill()
        self.origin.communicate()
        super().close()
