"""Attempts to get out of a sandbox, judged by what arrives outside.

With CLOCHE_EGRESS_PREFIX='COMMAND …' they run in another sandbox, which must grant the rules in `attempts.GRANTS`;
its output is then not compared, only the packets that get out.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cli.harness import environment
from tests.egress.attempts import ATTEMPTS, GRANTS, HARMLESS, TRICKY, Attempt
from tests.egress.servers import PUBLIC, RESOLVER
from tests.egress.world import Outcome, World, missing

REASON = missing()
pytestmark = [pytest.mark.guest, pytest.mark.skipif(bool(REASON), reason=REASON or "-")]

# All that may ever arrive outside.
PACKETS = {
    *[(6, PUBLIC, port) for port in (80, 443, 3000, 7000)],
    (17, PUBLIC, 7001),
    (17, RESOLVER, 53),
    (6, RESOLVER, 53),
}
NAMES = {name for name in (*HARMLESS, *TRICKY, "other.test") if not name.startswith("*")}
HOSTS = {"good.test", "www.good.test", "mixed.test", "rebind.test", "alias-good.test", "xn--bcher-kva.test"}

# Runs inside: one attempt after the other.
DRIVER = r"""
import json, subprocess, sys
for line in sys.stdin:
    command = json.loads(line)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=150)
        found = [done.returncode, done.stdout.decode('latin-1'), done.stderr.decode('latin-1')]
    except subprocess.TimeoutExpired as slow:
        found = [-1, (slow.stdout or b'').decode('latin-1'), 'it took too long']
    print(json.dumps(found), flush=True)
"""


class Inside:
    """A sandbox that runs one attempt after the other."""

    def __init__(self, world: World) -> None:
        self.world = world
        options: list[str] = []
        for grant in GRANTS:
            options += ["--allow", grant]
        self.process = subprocess.Popen(
            [*world.words(*options), "python3", "-u", "-c", DRIVER],
            cwd=world.folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: list[str]) -> Outcome:
        """One attempt, and what arrived outside meanwhile."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.world.collect()
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        status, out, err = json.loads(line)
        return Outcome(status, out, err, self.world.collect())

    def close(self) -> str:
        """End it; what it said."""
        return self.process.communicate()[1]


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    world = World(tmp_path_factory.mktemp("egress"))
    try:
        made = Inside(world)
        try:
            yield made
        finally:
            said = made.close()
            print(said, file=sys.stderr)
        assert made.process.returncode == 0, said
    finally:
        world.close()


def escapes(outcome: Outcome) -> list[str]:
    """The arrivals outside that no rule allows."""
    found = [f"a packet to {packet}" for packet in sorted(outcome.packets - PACKETS)]
    for name, _kind in outcome.queries:
        below = name.removesuffix(".good.test")
        if name not in NAMES and ("." in below or below == name):
            found.append(f"a question about {name}")
    found += [f"TLS to {name or 'nobody'}" for name in outcome.hellos if name.lower() not in HOSTS]
    for request in outcome.requests:
        lines = request.split("\r\n")
        hosts = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("host:")]
        if len(hosts) != 1 or hosts[0] not in HOSTS:
            found.append(f"a request for {hosts}: {request[:200]!r}")
        if "LEAK" in request or "/smuggled" in lines[0]:
            found.append(f"a request that must not be: {request[:200]!r}")
        if "\n" in request.partition("\r\n\r\n")[0].replace("\r\n", ""):
            found.append(f"a request with bare line ends: {request[:200]!r}")
    found += [f"data: {data!r}" for data in outcome.received if "LEAK" in data]
    return found


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=[attempt.name for attempt in ATTEMPTS])
def test_nothing_gets_out(inside: Inside, attempt: Attempt) -> None:
    if attempt.tool and shutil.which(attempt.tool) is None:
        pytest.skip(f"{attempt.tool} is not installed")
    outcome = inside.run(attempt.command)
    assert escapes(outcome) == [], outcome
    if not os.environ.get("CLOCHE_EGRESS_PREFIX"):
        assert re.search(attempt.says, outcome.out + outcome.err, re.DOTALL), outcome
        assert outcome.err != "it took too long", outcome


def test_there_are_many_attempts() -> None:
    names = [attempt.name for attempt in ATTEMPTS]
    assert len(names) == len(set(names)) >= 120
