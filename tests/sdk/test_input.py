"""Input of commands in the background that ends, or never gets room, while somebody writes it."""

import asyncio
import fcntl
import signal
import termios
import threading
from array import array
from collections.abc import Callable

import pytest

from cloche import AsyncSandbox, Sandbox
from cloche.sdk import SandboxEnded, SandboxError, SandboxTimeout
from cloche.sdk.aio import AsyncCommandHandle
from cloche.sdk.sync import CommandHandle
from tests.cli.harness import wait_until

MUCH = b"x" * (4 << 20)  # more than a pipe has room for
# reads nothing until it is told to, then counts what it was given
WAITING = "while [ ! -e /tmp/go ]; do sleep 0.02; done; wc -c"
# ends when it is told to, and leaves a process behind that keeps its input open
LEAVING = "exec 3<&0; sleep 1000 <&3 >/dev/null 2>&1 & while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 3"
SOON_S = 60.0


def is_full(handle: CommandHandle | AsyncCommandHandle) -> bool:
    """Whether the pipe takes no more."""
    fd = handle._command.stdin
    waiting = array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, waiting)
    return waiting[0] == fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)


class Writer(threading.Thread):
    """A thread that writes MUCH, and what became of it."""

    def __init__(self, handle: CommandHandle, timeout: float | None = None) -> None:
        super().__init__(daemon=True)
        self.handle = handle
        self.timeout = timeout
        self.error: Exception | None = None
        self.start()
        wait_until(lambda: is_full(handle), "it waits")

    def run(self) -> None:
        try:
            self.handle.send_stdin(MUCH, self.timeout)
        except Exception as error:
            self.error = error

    def end(self) -> Exception | None:
        """Its exception."""
        self.join(SOON_S)
        assert not self.is_alive(), "it still waits"
        return self.error


@pytest.fixture
def box(root: str) -> Sandbox:
    return Sandbox.create(root=root)


def told(box: Sandbox) -> None:
    box.files.write("/tmp/go", "")


def test_closed_by_another_thread(box: Sandbox) -> None:
    with box, box.commands.run(WAITING, background=True, stdin=True) as handle:
        writer = Writer(handle)
        handle.close_stdin()
        error = writer.end()
        assert isinstance(error, SandboxError) and "input" in str(error)
        told(box)
        assert 0 < int(handle.wait(SOON_S).stdout) < len(MUCH)  # it finds the end of its input


def test_the_command_ends(box: Sandbox) -> None:
    with box:
        handle = box.commands.run(LEAVING, background=True, stdin=True)
        writer = Writer(handle)
        told(box)
        error = writer.end()
        assert isinstance(error, SandboxError) and "input" in str(error)
        assert handle.wait(SOON_S).exit_code == 3
        with pytest.raises(SandboxError, match="input"):
            handle.send_stdin("late")


def test_the_command_ends_while_another_waits_for_it(box: Sandbox) -> None:
    with box:
        handle = box.commands.run(LEAVING, background=True, stdin=True)
        writer = Writer(handle)
        codes: list[int] = []
        other = threading.Thread(target=lambda: codes.append(handle.wait().exit_code), daemon=True)
        other.start()
        wait_until(lambda: handle._command.is_followed, "it is waited for")
        told(box)
        assert isinstance(writer.end(), SandboxError)
        other.join(SOON_S)
        assert codes == [3]


def test_the_command_runs_out_of_time(box: Sandbox) -> None:
    with box:
        handle = box.commands.run(WAITING, background=True, stdin=True, timeout=1)
        assert isinstance(Writer(handle).end(), SandboxTimeout)
        assert handle.wait(SOON_S).timed_out


def test_a_timeout(box: Sandbox) -> None:
    with box, box.commands.run(WAITING, background=True, stdin=True) as handle:
        assert isinstance(Writer(handle, 0.2).end(), SandboxTimeout)


def test_the_sandbox_ends(box: Sandbox) -> None:
    handle = box.commands.run(WAITING, background=True, stdin=True)
    writer = Writer(handle)
    box.kill()
    assert isinstance(writer.end(), SandboxError)
    with pytest.raises(SandboxEnded):
        handle.send_stdin("late")


def test_what_ends_a_command_does_no_harm_after_its_end(box: Sandbox) -> None:
    """As for subprocess: `kill` and `close_stdin` have nothing to do, what asks for more says that it is gone."""
    ended = box.commands.run("true", background=True, stdin=True)
    assert ended.wait(SOON_S).ok
    running = box.commands.run("cat", background=True, stdin=True)
    terminal = box.pty.create(["cat"])
    box.kill()
    for handle in (ended, running, terminal):
        for _ in range(2):  # the second time it is known how it ended
            handle.kill()
            handle.kill(signal.SIGTERM)
            handle.close_stdin()
            if handle is not ended:
                with pytest.raises(SandboxEnded):
                    handle.wait()
                with pytest.raises(SandboxEnded):
                    handle.send_stdin("late")
    terminal.resize(25, 80)
    assert ended.wait().ok


def test_the_handle_is_closed(box: Sandbox) -> None:
    with box:
        with box.commands.run(WAITING, background=True, stdin=True) as handle:
            writer = Writer(handle)
            errors: list[Exception] = []

            def follow() -> None:
                try:
                    handle.wait()
                except SandboxError as error:
                    errors.append(error)

            follower = threading.Thread(target=follow, daemon=True)
            follower.start()
            wait_until(lambda: handle._command.is_followed, "it is waited for")
        assert isinstance(writer.end(), SandboxError)
        follower.join(SOON_S)
        assert len(errors) == 1 and not isinstance(errors[0], SandboxEnded)


class Follower(threading.Thread):
    """A thread that reads output, and what became of it."""

    def __init__(self, handle: CommandHandle) -> None:
        super().__init__(daemon=True)
        self.handle = handle
        self.has_output = threading.Event()
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.handle.wait(on_stdout=lambda _text: self.has_output.set())
        except Exception as error:
            self.error = error


def test_the_handle_is_closed_amid_output(box: Sandbox) -> None:
    """Another thread reads then: never from a descriptor that is closed, or is something else by now."""
    with box:
        for _ in range(30):
            handle = box.commands.run("while :; do echo out; done", background=True, max_output=10)
            follower = Follower(handle)
            assert follower.has_output.wait(SOON_S)
            with handle:
                pass
            follower.join(SOON_S)
            assert type(follower.error) is SandboxError


async def until(condition: Callable[[], bool]) -> None:
    """`wait_until`, while other tasks go on."""
    async with asyncio.timeout(SOON_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_closed_by_another_task(box: Sandbox) -> None:
    async def main() -> None:
        sandbox = await AsyncSandbox.connect(box.name, root=box._core.root)
        handle = await sandbox.commands.run(WAITING, background=True, stdin=True)
        writer = asyncio.create_task(handle.send_stdin(MUCH))
        await until(lambda: is_full(handle))
        handle.close_stdin()
        with pytest.raises(SandboxError, match="input"):
            async with asyncio.timeout(SOON_S):
                await writer
        for _ in range(3):  # new descriptors have the same numbers
            assert (await sandbox.commands.run(["cat"], stdin=MUCH)).stdout_bytes == MUCH
        await sandbox.files.write("/tmp/go", "")
        assert 0 < int((await handle.wait(SOON_S)).stdout) < len(MUCH)

    with box:
        asyncio.run(main())


def test_two_tasks_write(box: Sandbox) -> None:
    async def main() -> None:
        sandbox = await AsyncSandbox.connect(box.name, root=box._core.root)
        handle = await sandbox.commands.run(WAITING, background=True, stdin=True)
        async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
            group.create_task(handle.send_stdin(MUCH))
            group.create_task(handle.send_stdin(MUCH))
            await until(lambda: is_full(handle))
            await sandbox.files.write("/tmp/go", "")
        handle.close_stdin()
        assert int((await handle.wait(SOON_S)).stdout) == 2 * len(MUCH)

    with box:
        asyncio.run(main())


def test_the_command_ends_with_asyncio(box: Sandbox) -> None:
    async def main() -> None:
        sandbox = await AsyncSandbox.connect(box.name, root=box._core.root)
        handle = await sandbox.commands.run(LEAVING, background=True, stdin=True)
        writer = asyncio.create_task(handle.send_stdin(MUCH))
        await until(lambda: is_full(handle))
        await sandbox.files.write("/tmp/go", "")
        with pytest.raises(SandboxError, match="input"):
            async with asyncio.timeout(SOON_S):
                await writer
        assert (await handle.wait(SOON_S)).exit_code == 3

    with box:
        asyncio.run(main())


def test_the_sandbox_ends_with_asyncio(box: Sandbox) -> None:
    async def main() -> None:
        sandbox = await AsyncSandbox.connect(box.name, root=box._core.root)
        handle = await sandbox.commands.run(WAITING, background=True, stdin=True)
        writer = asyncio.create_task(handle.send_stdin(MUCH))
        await until(lambda: is_full(handle))
        await asyncio.to_thread(box.kill)
        with pytest.raises(SandboxError):
            async with asyncio.timeout(SOON_S):
                await writer
        for _ in range(2):
            handle.kill()
            handle.kill(signal.SIGTERM)
            handle.close_stdin()
            with pytest.raises(SandboxEnded):
                await handle.send_stdin("late")
            with pytest.raises(SandboxEnded):
                await handle.wait()

    asyncio.run(main())


def test_the_handle_is_closed_with_asyncio(box: Sandbox) -> None:
    async def main() -> None:
        sandbox = await AsyncSandbox.connect(box.name, root=box._core.root)
        async with await sandbox.commands.run(WAITING, background=True, stdin=True) as handle:
            writer = asyncio.create_task(handle.send_stdin(MUCH))
            follower = asyncio.create_task(handle.wait())
            await until(lambda: is_full(handle))
        for task in (writer, follower):
            with pytest.raises(SandboxError):
                async with asyncio.timeout(SOON_S):
                    await task
        assert (await sandbox.commands.run(["cat"], stdin=MUCH)).stdout_bytes == MUCH

    with box:
        asyncio.run(main())
