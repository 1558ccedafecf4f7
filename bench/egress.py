"""What the way out costs: connections and data natively, given away, relayed and inspected.

    python -m bench.egress [--json FILE]

Needs root, for network namespaces: servers stand in one, sandboxes start in another (`tests.egress.world`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cli.harness import environment
from tests.egress.servers import PUBLIC
from tests.egress.test_inspect import RULE, InspectedWorld
from tests.egress.world import missing

RULES = (
    RULE
    + '[[allow]]\nhost = "good.test"\nports = [80, 7000]\n'
    + '[[allow]]\nhost = "other.test"\nports = [80]\nprotocol = "tcp"\n'
)
# Runs natively and inside; what it is given is the names of the hosts.
CLIENT = r"""
import json, socket, ssl, statistics, sys, time, urllib.request
good, other = sys.argv[1:3]
found = {}
def setup():
    began = time.perf_counter()
    with socket.create_connection((good, 7000)): pass
    return time.perf_counter() - began
for _ in range(20): setup()
found["set-up, ms"] = statistics.median([setup() for _ in range(300)]) * 1000
def drain(sock, ask):
    sock.sendall(ask)
    buffer, total, began = bytearray(1 << 20), 0, time.perf_counter()
    while total < int(sys.argv[4]):
        count = sock.recv_into(buffer)
        if not count: break
        total += count
    return total / (time.perf_counter() - began) / 1e6
get = "GET /big HTTP/1.1\r\nHost: %s\r\n\r\n"
def tls():
    context = ssl.create_default_context(cafile=sys.argv[3] or None)
    context.check_hostname = False
    return context.wrap_socket(socket.create_connection((good, 9443)), server_hostname="good.test")
def best(connect, host):
    return max(drain(connect(), (get % host).encode()) for _ in range(3))
found["plain data (given away), MB/s"] = best(lambda: socket.create_connection((other, 80)), other)
found["plain HTTP (relayed), MB/s"] = best(lambda: socket.create_connection((good, 80)), "good.test")
found["HTTPS (inspected), MB/s"] = best(tls, "good.test:9443")
began = time.perf_counter()
many = [socket.create_connection((good, 7000)) for _ in range(1000)]
for each in many: each.sendall(b"x")
assert all(each.recv(1) == b"x" for each in many)
found["1,000 connections and a byte on each, s"] = time.perf_counter() - began
print(json.dumps(found))
"""
BYTES = str(30 << 20)


def main() -> int:
    """The table."""
    parser = argparse.ArgumentParser(prog="python -m bench.egress")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    reason = missing()
    if reason:
        print(f"bench.egress: {reason}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        world = InspectedWorld(folder)
        try:
            client = [sys.executable, "-c", CLIENT]
            native = subprocess.run(
                [*world.enter(world.host), *client, PUBLIC, PUBLIC, "cert.pem", BYTES],
                cwd=folder,
                env=environment(),
                capture_output=True,
                text=True,
                check=True,
            )
            words = world.words("--net", world.rules(RULES))
            inside = subprocess.run(
                [*words, "python3", "-c", CLIENT, "good.test", "other.test", "", BYTES],
                cwd=folder,
                env=environment(),
                capture_output=True,
                text=True,
                check=False,
            )
            if inside.returncode:
                print(inside.stderr, file=sys.stderr)
                return 1
        finally:
            world.close()
    found = {"native": json.loads(native.stdout), "cloche": json.loads(inside.stdout)}
    for what, value in found["native"].items():
        print(f"{what:45}{value:10.2f} native{found['cloche'][what]:10.2f} cloche")
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
