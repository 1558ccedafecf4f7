"""What the way out costs: connections and data natively, given away, relayed and inspected.

    python -m bench.egress [--rounds N] [--runsc COMMAND] [--mitmdump PROGRAM] [--json FILE]

Needs root, for network namespaces: servers stand in one, sandboxes start in another (`tests.egress.world`).  All are
measured in turn, as often as there are rounds, and medians are shown, with the machine's load: read the ratios.
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
# Runs natively and inside; its argument is JSON.
CLIENT = r"""
import json, socket, ssl, statistics, sys, time
told = json.loads(sys.argv[1])
good, other, tls_port, http_port = told["good"], told["other"], told["tls"], told["http"]
found = {}
def setup(host):
    began = time.perf_counter()
    with socket.create_connection((host, 7000)): pass
    return time.perf_counter() - began
def typical(host):
    for _ in range(20): setup(host)
    return statistics.median([setup(host) for _ in range(300)]) * 1000
def drain(sock, ask):
    sock.sendall(ask)
    buffer, total, began = bytearray(1 << 20), 0, time.perf_counter()
    while total < told["bytes"]:
        count = sock.recv_into(buffer)
        if not count: break
        total += count
    assert total >= told["bytes"]
    return total / (time.perf_counter() - began) / 1e6
get = "GET /big HTTP/1.1\r\nHost: %s\r\n\r\n"
def tls():
    context = ssl.create_default_context(cafile=told["believed"] or None)
    context.check_hostname = False
    return context.wrap_socket(socket.create_connection((good, tls_port)), server_hostname="good.test")
def best(connect, host):
    return max(drain(connect(), (get % host).encode()) for _ in range(3))
if not told["is_proxied"]:
    address = socket.gethostbyname(good)
    found["set-up, ms"] = typical(address)
    if address != good: found["look-up of the name and set-up, ms"] = typical(good)
    found["plain data (given away), MB/s"] = best(lambda: socket.create_connection((other, 80)), other)
found["plain HTTP (relayed), MB/s"] = best(lambda: socket.create_connection((good, http_port)), "good.test")
found["HTTPS (inspected), MB/s"] = best(tls, "good.test:9443")
if not told["is_proxied"]:
    began = time.perf_counter()
    many = [socket.create_connection((good, 7000)) for _ in range(1000)]
    for each in many: each.sendall(b"x")
    assert all(each.recv(1) == b"x" for each in many)
    found["1,000 connections and a byte on each, s"] = time.perf_counter() - began
print(json.dumps(found))
"""
BYTES = 30 << 20
PROXY_HTTP = 18080
PROXY_TLS = 18443
_START_S = 60


class Mitmproxy:
    """mitmproxy in front of both servers, in the namespace in which clients run."""

    def __init__(self, program: str, world: InspectedWorld) -> None:
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


def measure(world: InspectedWorld, words: list[str], python: str, **told: Any) -> dict[str, float]:
    """One run of the client; RuntimeError if it fails."""
    given = {"good": "good.test", "other": "other.test", "believed": "", "is_proxied": False}
    given |= {"tls": 9443, "http": 80, "bytes": BYTES, **told}
    done = subprocess.run(
        [*words, python, "-c", CLIENT, json.dumps(given)],
        cwd=world.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_all(world: InspectedWorld, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure all systems in turn; medians."""
    native = world.enter(world.host)
    plain = {"good": PUBLIC, "other": PUBLIC, "believed": "cert.pem"}
    runs: dict[str, list[dict[str, float]]] = {}
    proxy = Mitmproxy(options.mitmdump, world) if options.mitmdump else None
    try:
        for _round in range(options.rounds):
            runs.setdefault("native", []).append(measure(world, native, sys.executable, **plain))
            words = world.words("--net", world.rules(RULES))
            runs.setdefault("cloche", []).append(measure(world, words, "python3"))
            if options.runsc:
                words = [*native, *options.runsc.split()]
                runs.setdefault("runsc", []).append(measure(world, words, "python3", **plain))
            if proxy is not None:
                told = {"good": "127.0.0.1", "believed": str(proxy.folder / "mitmproxy-ca-cert.pem")}
                told |= {"tls": PROXY_TLS, "http": PROXY_HTTP, "is_proxied": True}
                runs.setdefault("mitmproxy", []).append(measure(world, native, sys.executable, **told))
    finally:
        if proxy is not None:
            proxy.close()
    return {
        who: {what: statistics.median([each[what] for each in found]) for what in found[0]}
        for who, found in runs.items()
    }


def main() -> int:
    """The table."""
    parser = argparse.ArgumentParser(prog="python -m bench.egress")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runsc", metavar="COMMAND", default="")
    parser.add_argument("--mitmdump", metavar="PROGRAM", default="")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    reason = missing()
    if reason:
        print(f"bench.egress: {reason}", file=sys.stderr)
        return 1
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        world = InspectedWorld(folder)
        try:
            found = measure_all(world, options)
        except RuntimeError as failure:
            print(f"bench.egress: {failure}", file=sys.stderr)
            return 1
        finally:
            world.close()
    print(f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after; {os.cpu_count()} processors")
    print(f"{'':42}" + "".join([f"{who:>12}" for who in found]))
    for what in (SET_UP, NAMED, GIVEN, RELAYED, INSPECTED, MANY):
        cells = [f"{row[what]:12.2f}" if what in row else f"{'-':>12}" for row in found.values()]
        print(f"{what:42}" + "".join(cells))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
