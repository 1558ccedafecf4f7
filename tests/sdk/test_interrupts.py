"""What is interrupted while it waits leaves nothing behind: no descriptor, no command, no sandbox."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from cloche import AsyncSandbox, Sandbox
from cloche.sdk import code, commands, core, effects, files
from cloche.sdk.options import Options
from tests.cli.harness import wait_until

MOST_WAITS = 200


def descriptors() -> set[tuple[str, str]]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
        except FileNotFoundError:
            pass  # that of the listing
    return found


def interruptions(begin: Callable[[], effects.Steps[Any]]) -> Iterator[Any]:
    """Run it again and again, interrupted instead of its first wait, its second, and so on; None for each of these.
    At last what it returns when it has come to its end.
    """
    for waits in range(MOST_WAITS):
        left = waits

        def perform(effect: effects.Effect) -> object:
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            return effects._perform(effect)

        steps = begin()
        try:
            effect = next(steps)
            while True:
                try:
                    answer = perform(effect)
                except KeyboardInterrupt as failure:
                    effect = steps.throw(failure)
                else:
                    effect = steps.send(answer)
        except KeyboardInterrupt:
            yield None
        except StopIteration as stop:
            yield stop.value
            return
    raise AssertionError(f"more than {MOST_WAITS} waits")


@pytest.mark.parametrize("is_leashed", [True, False])
@pytest.mark.parametrize("has_template", [True, False])
def test_create(root: str, monkeypatch: pytest.MonkeyPatch, is_leashed: bool, has_template: bool) -> None:
    if not has_template:
        monkeypatch.setenv("CLOCHE_TEMPLATE", "0")
    Sandbox.create(root=root).kill()
    before, count = descriptors(), 0
    for made in interruptions(lambda: core.create(Options({"root": root, "leash": is_leashed}))):
        if made is not None:
            effects.drive(made.kill())
        wait_until(lambda: not Sandbox.list(root=root), "it is gone")
        assert descriptors() == before
        count += 1
    assert count > 1


def test_a_command(shared: Sandbox) -> None:
    shared.commands.run("true")
    before, count = descriptors(), 0
    request = commands.make_request("cat; sleep 0.01; echo end; exec 2>&-", cwd=None, env=None, envs=None)

    def begin() -> effects.Steps[Any]:
        return commands.run(
            shared._core,
            "cat",
            request,
            user="nobody",
            stdin="x" * 100_000,
            timeout=60,
            max_output=1000,
            check=False,
            on_stdout=None,
            on_stderr=None,
        )

    for _ in interruptions(begin):
        assert descriptors() == before
        count += 1
    assert count > 2
    wait_until(lambda: len(shared.commands.list()) <= 1, "they have ended")


def test_a_file(shared: Sandbox) -> None:
    shared.files.write("/tmp/long", b"x" * (3 << 20))
    before, count = descriptors(), 0
    for _ in interruptions(lambda: files.read(shared._core, "/tmp/long", "nobody", 4 << 20)):
        assert descriptors() == before
        count += 1
    assert count > 2
    for _ in interruptions(
        lambda: files.write(shared._core, "/tmp/other", b"x" * 99, mode=None, user="nobody")
    ):
        assert descriptors() == before
    watch = files.Watch(shared._core, "/tmp")
    for _ in interruptions(lambda: watch.begin(None, is_recursive=False)):
        watch.close()
        assert descriptors() == before


def test_a_cell(shared: Sandbox) -> None:
    shared.commands.run("true")
    before, count = descriptors(), 0
    contexts = code.Contexts(shared._core)

    def begin() -> effects.Steps[Any]:
        listener = code.Listener(None, None, None)
        return code.run_code(contexts, "echo hi", "bash", None, 60, listener)

    for found in interruptions(begin):
        if found is not None:
            assert found.error is None
        contexts.close()
        assert descriptors() == before
        count += 1
    assert count > 2


def test_with_asyncio(root: str) -> None:
    """Cancelled after so many turns of the loop."""

    async def cancelled(begin: Callable[[], Awaitable[Any]]) -> int:
        """How often it was cancelled, until it was over before."""
        for turns in range(MOST_WAITS):
            task = asyncio.ensure_future(begin())
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                await task
                return turns
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return MOST_WAITS

    async def main() -> None:
        async with await AsyncSandbox.create(root=root) as sandbox:
            await sandbox.files.write("/tmp/long", b"x" * (3 << 20))

            async def stream() -> None:
                async for _piece in sandbox.files.stream("/tmp/long"):
                    pass

            before = descriptors()
            for begin in (
                lambda: sandbox.commands.run("echo hi; sleep 1000"),
                lambda: sandbox.create_code_context("bash"),
                stream,
            ):
                await cancelled(begin)
                assert descriptors() == before
        for turns in range(4):
            task = asyncio.ensure_future(AsyncSandbox.create(root=root))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.to_thread(wait_until, lambda: not Sandbox.list(root=root), "they are gone")

    asyncio.run(main())
