"""Parts of sandboxes, and their template, that die at any moment, under many calls at once: each call ends, with a
result or an error of the SDK.  With CLOCHE_SLOW there are fifty sandboxes at once.
"""

import asyncio
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche import AsyncSandbox, Sandbox
from cloche.sdk import CommandResult, Execution, SandboxError
from tests.cli.harness import alive, descendants, environment, name_of, parent_of, wait_until

SANDBOXES = 50 if os.environ.get("CLOCHE_SLOW") else 6
CALL_S = 150.0


@pytest.fixture
def own_template() -> Iterator[None]:
    """A caller with other limits has a template of its own; nothing comes of this one in Linux."""
    soft, hard = resource.getrlimit(resource.RLIMIT_RSS)
    resource.setrlimit(resource.RLIMIT_RSS, (random.randrange(1 << 40, 1 << 41), hard))
    yield
    resource.setrlimit(resource.RLIMIT_RSS, (soft, hard))


async def kill_templates(root: str, chance: random.Random) -> int:
    """Kill the template now and then, until cancelled: while it forks, or is asked to.  How often it was."""
    count = 0
    try:
        while True:
            await asyncio.sleep(chance.random() * 0.3)
            for info in AsyncSandbox.list(root=root):
                template = parent_of(info.pid)
                if name_of(template) == "cloche-template":
                    os.kill(template, signal.SIGKILL)
                    count += 1
                    break
    except asyncio.CancelledError:
        return count


async def use(root: str, chance: random.Random, seen: set[int]) -> list[str]:
    """Calls until the sandbox is gone; what became of each."""
    outcomes: list[str] = []
    sandbox = await AsyncSandbox.create(root=root)
    pid = (await sandbox.get_info()).pid
    mine = {pid, *descendants(pid)}
    seen |= mine
    victims = [each for each in mine if Path(f"/proc/{each}/comm").exists()]
    turn_of_cells = asyncio.Lock()  # the interpreter refuses a cell while it runs another

    async def cell() -> Execution:
        async with turn_of_cells:
            return await sandbox.run_code("sum(range(1000))")

    calls = [
        lambda: sandbox.commands.run("echo $((6 * 7))"),
        lambda: sandbox.commands.run("cat", stdin=b"x" * 300_000),
        lambda: sandbox.commands.run("sleep 100 & sleep 100", timeout=0.3),
        lambda: sandbox.files.write("/tmp/a/b", b"y" * 500_000),
        lambda: sandbox.files.read("/tmp/a/b", format="bytes"),
        lambda: sandbox.files.list("/usr", depth=2),
        cell,
        lambda: sandbox.get_metrics(),
    ]

    async def one() -> str:
        try:
            result = await asyncio.wait_for(chance.choice(calls)(), CALL_S)  # type: ignore[no-untyped-call]
        except SandboxError as error:
            return type(error).__name__
        if isinstance(result, CommandResult) and not result.timed_out:
            assert result.ok and (result.stdout == "42\n" or len(result.stdout) == 300_000), result
        if isinstance(result, Execution):
            return "ok" if result.text == "499500" else str(result.error)
        return "ok"

    for turn in range(12):
        group = asyncio.gather(*[one() for _ in range(3)])
        if turn == 8:
            await asyncio.sleep(chance.random() * 0.2)
            try:
                os.kill(chance.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                pass
        outcomes += await group
    await sandbox.kill()
    assert not await sandbox.is_running()
    return outcomes


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("own_template")
def test_parts_that_die(root: str) -> None:
    chance = random.Random(15)
    seen: set[int] = set()

    async def main() -> tuple[list[list[str]], int]:
        killer = asyncio.create_task(kill_templates(root, chance))
        outcomes = await asyncio.gather(*[use(root, chance, seen) for _ in range(SANDBOXES)])
        killer.cancel()
        return outcomes, await killer

    found, killed = asyncio.run(main())
    assert killed > 0
    for outcomes in found:
        assert set(outcomes[:6]) <= {"ok", "FileNotFound"}  # before anything died
    wait_until(lambda: not alive(seen), "nothing is left")
    wait_until(lambda: not Sandbox.list(root=root), "no record either")


MAKER = """
import sys, time
from cloche import Sandbox
made = [Sandbox.create(root=sys.argv[1]) for _ in range(2)]
handles = [each.commands.run("sleep 1000 & sleep 1000", background=True) for each in made]
print(*[each.get_info().pid for each in made], flush=True)
if sys.argv[2] == "exit": sys.exit(3)
time.sleep(1000)
"""


@pytest.mark.parametrize("how", ["exit", "kill", "term"])
def test_makers_that_end(root: str, how: str) -> None:
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER, root, how], stdout=subprocess.PIPE, env=environment(), text=True
    )
    assert maker.stdout is not None
    pids = {int(word) for word in maker.stdout.readline().split()}
    assert len(pids) == 2
    everyone = pids | {each for pid in pids for each in descendants(pid)}
    if how != "exit":
        maker.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
    maker.wait(60)
    maker.stdout.close()
    wait_until(lambda: not alive(everyone), "nothing is left")
    wait_until(lambda: not Sandbox.list(root=root), "no record either")
