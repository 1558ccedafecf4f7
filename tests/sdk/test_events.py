"""Events of a sandbox."""

import asyncio

import pytest

from cloche import AsyncSandbox, Sandbox
from cloche.sdk import SandboxEnded

PATIENCE_S = 60.0


def test_the_life_of_a_sandbox() -> None:
    with Sandbox.create(memory="200m") as sandbox, sandbox.events() as events:
        assert events.next_event(0) is None
        sandbox.pause()
        sandbox.resume()
        eater = "x = bytearray(600 << 20); print(len(x))"
        assert not sandbox.commands.run(["python3", "-c", eater]).ok
        sandbox.kill()
        assert [event.type for event in events if event.type != "oom"] == ["paused", "resumed", "ended"]
        assert events.next_event(PATIENCE_S) is None
        with pytest.raises(SandboxEnded):
            sandbox.events()


def test_two_listen_and_one_stops() -> None:
    with Sandbox.create() as sandbox:
        first, second = sandbox.events(), Sandbox.connect(sandbox.name).events()
        first.stop()
        sandbox.pause()
        found = second.next_event(PATIENCE_S)
        assert found is not None and found.type == "paused"
        assert first.next_event(0) is None
        second.stop()


def test_async() -> None:
    async def main() -> list[str]:
        sandbox = await AsyncSandbox.create()
        async with await sandbox.events() as events:
            await sandbox.pause()
            await sandbox.resume()
            await sandbox.kill()
            return [event.type async for event in events]

    assert asyncio.run(main()) == ["paused", "resumed", "ended"]
