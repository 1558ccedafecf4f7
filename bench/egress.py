"""What the way out costs: connections and data natively, given away, relayed and inspected.

    python -m bench.egress [--rounds N] [--runsc COMMAND] [--mitmdump PROGRAM] [--json FILE]

Needs root, for network namespaces: servers stand in one, sandboxes start in another (`tests.egress.world`).  One
client in each system lives through all rounds, so no first connection counts.  In a round all measure the same row in
turn, before the next row: their figures of a round are a pair, taken from the machine in one state.  Shown are medians,
and for cloche the median of its pairs with the native client, and their quartiles.  With real-time priority (`chrt -r 1
python -m bench.egress`) what else the machine does disturbs little.

A set-up is a connection to an address that the program has looked up before; natively there is no name to look up, so
that look-up has a row of its own.  `--runsc` is the start of a command that runs one in a sandbox with the host's
network; `--mitmdump` mitmproxy's program, which is measured as a proxy in front of the same servers, with a native
client.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.egress.servers import PUBLIC
from tests.egress.world import RULE, InspectedWorld, missing

from bench.machine import machine

RULES = (
    RULE
    + '[[allow]]\nhost = "good.test"\nports = [80, 7000]\n'
    + '[[allow]]\nhost = "other.test"\nports = [80]\nprotocol = "tcp"\n'
)
SET_UP = "set-up, ms"
NAMED = "look-up of the name and set-up, ms"
GIVEN = "plain data (given away), MB/s"
RELAYED = "plain HTTP (relayed), MB/s"
INSPECTED = "HTTPS (inspected), MB/s"
MANY = "1,000 connections and a byte on each, s"
ROWS = (SET_UP, NAMED, GIVEN, RELAYED, INSPECTED, MANY)
DATA = (GIVEN, RELAYED, INSPECTED)
SELDOM = 5  # rounds of the others for one of MANY
# Runs natively and inside.  Its argument is JSON, its input the names of rows; it answers each with a number.
CLIENT = r"""
import json, socket, ssl, statistics, sys, time
told = json.loads(sys.argv[1])
good, other = told["good"], told["other"]
address = socket.gethostbyname(good)
buffer = bytearray(1 << 20)
def setup(host):
    times = []
    for _ in range(100):
        began = time.perf_counter()
        sock = socket.create_connection((host, 7000))
        times.append(time.perf_counter() - began)
        sock.close()
    return statistics.median(times) * 1000
def drain(sock, name, count):
    sock.sendall(f"GET /big/{count} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    total, began = 0, time.perf_counter()
    while total < count:
        got = sock.recv_into(buffer)
        assert got, "it ends early"
        total += got
    sock.close()
    return total / (time.perf_counter() - began) / 1e6
context = ssl.create_default_context(cafile=told["believed"] or None)
context.check_hostname = False
def tls():
    sock = socket.create_connection((good, told["tls"]))
    return drain(context.wrap_socket(sock, server_hostname="good.test"), "good.test:9443", 32 << 20)
def many():
    began = time.perf_counter()
    found = [socket.create_connection((good, 7000)) for _ in range(1000)]
    for each in found: each.sendall(b"x")
    assert all(each.recv(1) == b"x" for each in found)
    took = time.perf_counter() - began
    for each in found: each.close()
    return took
ways = {
    "set-up, ms": lambda: setup(address),
    "look-up of the name and set-up, ms": lambda: setup(good),
    "plain data (given away), MB/s": lambda: drain(socket.create_connection((other, 80)), other, 64 << 20),
    "plain HTTP (relayed), MB/s": lambda: drain(socket.create_connection((good, told["http"])), "good.test", 64 << 20),
    "HTTPS (inspected), MB/s": tls,
    "1,000 connections and a byte on each, s": many,
}
for line in sys.stdin: print(json.dumps(ways[line.strip()]()), flush=True)
"""
PROXY_HTTP = 18080
PROXY_TLS = 18443
_START_S = 60


class BenchWorld(InspectedWorld):
    """With servers that do little, and without a witness of packets."""

    SERVERS = "bench.egress_servers"


class Mitmproxy:
    """mitmproxy in front of both servers, in the namespace in which clients run."""

    def __init__(self, program: str, world: BenchWorld) -> None:
        self.folder = world.folder / "mitmproxy"
        self.folder.mkdir()
        words = [
            program,
            "-q",
            "--set",
            f"confdir={self.folder}",
            "--set",
            "stream_large_bodies=1",
            "--ssl-insecure",
        ]
        words += ["--mode", f"reverse:http://{PUBLIC}:80@127.0.0.1:{PROXY_HTTP}"]
        words += ["--mode", f"reverse:https://{PUBLIC}:9443@127.0.0.1:{PROXY_TLS}"]
        self.process = subprocess.Popen([*world.enter(world.host), *words], stdin=subprocess.DEVNULL)
        probe = "import socket, sys; [socket.create_connection(('127.0.0.1', int(port))) for port in sys.argv[1:]]"
        deadline = time.monotonic() + _START_S
        words = [*world.enter(world.host), sys.executable, "-c", probe, str(PROXY_HTTP), str(PROXY_TLS)]
        while subprocess.run(words, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise SystemExit("bench.egress: mitmproxy does not start")
            time.sleep(0.2)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


class Client:
    """The client in one system, until `close`."""

    def __init__(self, world: BenchWorld, words: list[str], **told: Any) -> None:
        given = {"good": "good.test", "other": "other.test", "believed": "", "tls": 9443, "http": 80, **told}
        self.is_proxied = given["http"] == PROXY_HTTP
        self.has_names = given["good"] == "good.test"
        self.process = subprocess.Popen(
            [*words, "-c", CLIENT, json.dumps(given)],
            cwd=world.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def knows(self, row: str) -> bool:
        """Whether the row means something there."""
        return row in (RELAYED, INSPECTED) if self.is_proxied else row != NAMED or self.has_names

    def measure(self, row: str) -> float:
        """Raises RuntimeError."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(row + "\n")
            self.process.stdin.flush()
            return float(self.process.stdout.readline())
        except (OSError, ValueError):
            raise RuntimeError(f"a client has failed: {row}") from None

    def close(self) -> None:
        self.process.communicate()


def clients_of(world: BenchWorld, options: argparse.Namespace, proxy: Mitmproxy | None) -> dict[str, Client]:
    """One in each system that is measured."""
    native = world.enter(world.host)
    plain = {"good": PUBLIC, "other": PUBLIC, "believed": "cert.pem"}
    made = {"native": Client(world, [*native, sys.executable], **plain)}
    made["cloche"] = Client(world, [*world.words("--net", world.rules(RULES)), "python3"])
    if options.runsc:
        made["runsc"] = Client(world, [*native, *options.runsc.split(), "python3"], **plain)
    if proxy is not None:
        told: dict[str, Any] = {
            "good": "127.0.0.1",
            "believed": str(proxy.folder / "mitmproxy-ca-cert.pem"),
        }
        made["mitmproxy"] = Client(world, [*native, sys.executable], **told, tls=PROXY_TLS, http=PROXY_HTTP)
    return made


Found = dict[str, dict[str, list[float]]]  # by system and row, a figure for each round


def measure_all(world: BenchWorld, options: argparse.Namespace) -> Found:
    """All rounds.  Raises RuntimeError."""
    proxy = Mitmproxy(options.mitmdump, world) if options.mitmdump else None
    clients: dict[str, Client] = {}
    try:
        clients = clients_of(world, options, proxy)
        found: Found = {
            who: {row: [] for row in ROWS if client.knows(row)} for who, client in clients.items()
        }
        for number in range(-1, options.rounds):  # the first does not count
            for row in ROWS:
                if row == MANY and number % SELDOM:
                    continue
                for who, client in clients.items():
                    if client.knows(row):
                        figure = client.measure(row)
                        if number >= 0:
                            found[who][row].append(figure)
        return found
    finally:
        for client in clients.values():
            client.close()
        if proxy is not None:
            proxy.close()


def compare(found: Found, who: str) -> dict[str, list[float]]:
    """By row the lower quartile, the median and the upper quartile of the pairs with the native client: of differences
    for set-ups (the look-up included), else of quotients.
    """
    made: dict[str, list[float]] = {}
    for row, figures in found[who].items():
        native = found["native"][SET_UP if row == NAMED else row]
        if row in (SET_UP, NAMED):
            pairs = [mine - theirs for mine, theirs in zip(figures, native, strict=True)]
        else:
            pairs = [mine / theirs for mine, theirs in zip(figures, native, strict=True)]
        made[row] = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
    return made


def show(found: Found) -> None:
    """The table, and what there is to say of cloche."""
    print(f"{'':42}" + "".join([f"{who:>12}" for who in found]) + "   cloche beside native (quartiles)")
    pairs = compare(found, "cloche")
    for row in ROWS:
        cells = [
            f"{statistics.median(rows[row]):12.2f}" if row in rows else f"{'-':>12}"
            for rows in found.values()
        ]
        low, middle, high = pairs[row]
        if row in (SET_UP, NAMED):
            said = f"{middle:+.2f} ms ({low:+.2f} to {high:+.2f})"
        elif row in DATA:
            said = f"{middle:.0%} ({low:.0%} to {high:.0%})"
        else:
            said = f"{middle:.2f} times"
        print(f"{row:42}" + "".join(cells) + "   " + said)


def main() -> int:
    """The table."""
    parser = argparse.ArgumentParser(prog="python -m bench.egress")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--runsc", metavar="COMMAND", default="")
    parser.add_argument("--mitmdump", metavar="PROGRAM", default="")
    parser.add_argument("--json", metavar="FILE", help="write the figures of all rounds there, too")
    options = parser.parse_args()
    reason = missing()
    if reason:
        print(f"bench.egress: {reason}", file=sys.stderr)
        return 1
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        world = BenchWorld(folder)
        try:
            found = measure_all(world, options)
        except RuntimeError as failure:
            print(f"bench.egress: {failure}", file=sys.stderr)
            return 1
        finally:
            world.close()
    about = machine()
    print(
        f"{about['cpu']}, Linux {about['kernel']}, Python {about['python']}, {about['date']}; {options.rounds} rounds;"
    )
    print(f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after")
    show(found)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
