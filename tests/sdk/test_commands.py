"""Commands and terminals."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable

import pytest

from cloche import AsyncSandbox, Sandbox
from cloche.sdk import CommandError, InvalidArgument, SandboxError, SandboxTimeout
from cloche.sdk.commands import Command
from tests.cli.harness import wait_until


def runs(sandbox: Sandbox) -> set[int]:
    """The processes that have come, with what ended before this was asked still among them perhaps."""
    return {process.pid for process in sandbox.commands.list()}


def test_results(shared: Sandbox) -> None:
    result = shared.commands.run("echo out; echo err >&2; exit 3")
    assert (result.exit_code, result.stdout, result.stderr, result.ok) == (3, "out\n", "err\n", False)
    assert not result.timed_out and not result.truncated and result.error == "" and result.duration > 0
    assert shared.commands.exec("printf", r"\377\0").stdout_bytes == b"\xff\0"
    assert shared.commands.run("kill -9 $$").exit_code == 137
    assert shared.commands.run(["sh", "-c", "echo $0", "a b; c"]).stdout == "a b; c\n"


def test_a_user_of_a_liar(shared: Sandbox) -> None:
    """Numbers in its passwd that are none."""
    before = shared.files.read("/etc/passwd")
    try:
        for number in ("\u00b2", "9" * 5000, "4294967295"):
            shared.files.write("/etc/passwd", f"first:x:{number}:0::/:\nsecond:x:0:{number}::/:\n")
            for user in ("first", "second"):
                with pytest.raises(InvalidArgument, match="there is no"):
                    shared.commands.run("true", user=user)
    finally:
        shared.files.write("/etc/passwd", before)


def test_no_such_command(shared: Sandbox) -> None:
    result = shared.commands.run(["/no/such"])
    assert result.exit_code == 127 and "/no/such" in result.error
    assert shared.commands.run(["/etc/passwd"]).exit_code == 126


def test_check(shared: Sandbox) -> None:
    with pytest.raises(CommandError, match=r"^cat /no: ended with status 1: .*No such file") as caught:
        shared.commands.run("cat /no", check=True)
    assert caught.value.result.exit_code == 1
    assert shared.commands.run("true", check=True).ok


def test_circumstances(shared: Sandbox) -> None:
    result = shared.commands.run('echo "$A"; pwd; id -u; id -g', env={"A": "é"}, cwd="/usr", user="12:34")
    assert result.stdout == "é\n/usr\n12\n34\n"
    assert shared.commands.run("echo $HOME; id -un", user="nobody").stdout == "/nonexistent\nnobody\n"
    assert shared.commands.run("pwd", cwd="../usr").stdout == "/usr\n"
    with pytest.raises(InvalidArgument, match="user"):
        shared.commands.run("true", user="who?")
    with pytest.raises(InvalidArgument, match="command"):
        shared.commands.run([])
    with pytest.raises(InvalidArgument, match="NUL"):
        shared.commands.run(["a\0b"])
    with pytest.raises(SandboxError, match="/nowhere"):
        shared.commands.run("true", cwd="/nowhere")


def test_a_directory_that_the_user_may_not_enter(shared: Sandbox) -> None:
    """A command starts there, as in Docker, which enters before the change of the user; it finds nothing there."""
    shared.commands.run("mkdir -p /closed/inner; chmod 700 /closed /closed/inner", check=True)
    for place in ("/closed", "/closed/inner"):
        result = shared.commands.run("pwd; ls . || echo refused", cwd=place, user=65534)
        assert result.stdout == f"{place}\nrefused\n", result
    with pytest.raises(InvalidArgument, match="cwd: .*/closed/other: No such file"):
        shared.commands.run("true", cwd="/closed/other", user=65534)


def test_input(shared: Sandbox) -> None:
    data = os.urandom(1 << 20)
    assert shared.commands.run(["cat"], stdin=data).stdout_bytes == data
    assert shared.commands.run(["cat"]).stdout == ""
    assert shared.commands.run(["true"], stdin=data).ok  # the command does not read it


def test_a_timeout_ends_all_of_it(shared: Sandbox) -> None:
    before = runs(shared)
    for timeout in (1, 4, 16, 64):  # on a busy machine it may not even begin in time
        result = shared.commands.run("echo begun; sleep 1000 & sh -c 'sleep 1000; :'", timeout=timeout)
        assert result.timed_out and result.exit_code == 124 and result.stdout in ("", "begun\n")
        if result.stdout:
            break
    assert result.stdout == "begun\n"
    wait_until(lambda: runs(shared) <= before, "its children are gone, too")


def test_children_that_hold_the_pipes(shared: Sandbox) -> None:
    result = shared.commands.run("sleep 1000 & echo $!")
    assert result.ok
    shared.commands.run(f"kill {result.stdout}", check=True)


def test_more_output_than_is_kept(shared: Sandbox) -> None:
    result = shared.commands.run("head -c 3000000 /dev/zero; echo end >&2", max_output=1000)
    assert result.ok and result.truncated and result.stdout_bytes == bytes(1000) and result.stderr == "end\n"
    assert len(shared.commands.run("head -c 3000000 /dev/zero").stdout_bytes) == 3000000


def test_callbacks(shared: Sandbox) -> None:
    seen: list[str] = []
    result = shared.commands.run(
        "printf 'a\\303'; printf '\\251b'; echo e >&2", on_stdout=seen.append, on_stderr=seen.append
    )
    assert "".join([each for each in seen if each != "e\n"]) == "aéb" and "e\n" in seen
    assert result.stdout == "aéb"

    def fail(_text: str) -> None:
        raise ValueError("mine")

    before = runs(shared)
    with pytest.raises(ValueError, match="mine"):
        shared.commands.run("echo a; sleep 1000", on_stdout=fail)
    wait_until(lambda: runs(shared) <= before, "the command has ended with the call")


def test_a_timeout_holds_in_the_background(shared: Sandbox) -> None:
    """Though nobody follows the command."""
    with shared.commands.run("sleep 1000 & sleep 1000", background=True, timeout=0.5) as handle:
        wait_until(lambda: handle.pid not in runs(shared), "it is gone")
        result = handle.wait()
    assert result.timed_out and result.exit_code == 124 and result.duration >= 0.5
    with shared.commands.run("read a", background=True, stdin=True, timeout=600) as handle:
        handle.send_stdin("a\n")
        assert handle.wait().ok
    with shared.commands.run("exit 3", background=True, timeout=float("inf")) as handle:
        assert handle.wait().exit_code == 3


def test_in_the_background(shared: Sandbox) -> None:
    handle = shared.commands.run(["cat"], background=True, stdin=True)
    assert handle.pid > 1
    handle.send_stdin("one\n")
    pieces = iter(handle)
    assert next(pieces).text == "one\n"
    with pytest.raises(SandboxError, match="one place"):
        handle.wait()
    pieces.close()  # type: ignore[attr-defined]
    with pytest.raises(SandboxTimeout, match="still runs"):
        handle.wait(0.05)
    handle.send_stdin(b"two\n")
    handle.close_stdin()
    assert handle.wait(60).stdout == "one\ntwo\n"
    assert handle.wait().ok
    with pytest.raises(SandboxError, match="no input"):
        handle.send_stdin("late")


def test_killing_one(shared: Sandbox) -> None:
    with shared.commands.run(
        "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.1; done", background=True
    ) as one:
        assert next(iter(one)).text == "up\n"
        one.kill(signal.SIGTERM)
        result = one.wait(60)
        assert (result.exit_code, result.stdout) == (7, "up\ngot\n")
    with shared.commands.run("sleep 1000", background=True) as other:
        other.kill()
        assert other.wait(60).exit_code == 137


def test_another_handle_of_it(shared: Sandbox) -> None:
    handle = shared.commands.run("read a; echo got $a; read b; echo got $b", background=True, stdin=True)
    again = Sandbox.connect("shared", root=shared._core.root).commands.connect(handle.pid)
    again.send_stdin("one\n")
    output = iter(again)
    assert next(output).data == b"got one\n"
    with pytest.raises(SandboxError, match="waits for this command already"):
        handle.wait()
    del output
    handle.send_stdin("two\n")
    assert handle.wait().stdout == "got one\ngot two\n" and again.wait().ok
    pid = handle.pid
    del handle, again
    for each in (pid, 1, 1 << 40):
        with pytest.raises(SandboxError, match=f"no command with pid {each} was started by this process"):
            shared.commands.connect(each)

    async def with_asyncio() -> None:
        sandbox = await AsyncSandbox.connect("shared", root=shared._core.root)
        first = await sandbox.commands.run("echo x; sleep 600", background=True)
        second = await sandbox.commands.connect(first.pid)
        second.kill()
        assert (await first.wait()).exit_code == 137

    asyncio.run(with_asyncio())


def test_it_ends_with_its_handle(shared: Sandbox) -> None:
    with shared.commands.run("sleep 1000", background=True) as handle:
        assert handle.pid in runs(shared)
    wait_until(lambda: handle.pid not in runs(shared), "it is gone")


def test_it_ends_although_a_fork_has_its_connection(shared: Sandbox) -> None:
    with shared.commands.run("sleep 1000", background=True) as handle:
        child = os.fork()
        if child == 0:
            try:
                handle._command.close()  # which is not the child's: nothing happens
                signal.pause()
            finally:
                os._exit(0)
        try:
            with pytest.raises(SandboxTimeout):
                handle.wait(1)
            assert handle.pid in runs(shared)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            raise
    wait_until(lambda: handle.pid not in runs(shared), "it is gone")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_handle_is_not_its_forks(shared: Sandbox) -> None:
    """A fork that took messages, or input, would take them from the parent, which would wait for ever."""
    handle = shared.commands.run("cat", background=True, stdin=True)
    shared.run_code("mine = 1")
    context = shared.create_code_context()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            calls: list[Callable[[], object]] = [
                handle.kill,
                handle.close_stdin,
                handle.wait,
                lambda: list(handle),
                lambda: handle.send_stdin("of the fork"),
                context.interrupt,
                lambda: shared.run_code("1", context=context),
            ]
            for call in calls:
                with pytest.raises(SandboxError, match="fork"):
                    call()
            error = shared.run_code("mine").error  # an interpreter of its own
            assert error is not None and error.name == "NameError"
            assert shared.commands.run("echo fork").stdout == "fork\n"
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert shared.run_code("mine").text == "1"
    context.close()
    handle.send_stdin("of the parent")
    handle.close_stdin()
    assert handle.wait(60).stdout == "of the parent"


def test_one_that_is_only_half_made_is_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupt may come in the middle of anything."""
    Command.__new__(Command).__del__()
    assert capsys.readouterr().err == ""


def test_many_threads(shared: Sandbox) -> None:
    found: list[str] = []

    def work(number: int) -> None:
        found.append(shared.commands.run(f"echo {number}", check=True).stdout.strip())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=int) == [str(number) for number in range(12)]


def test_descriptors_are_given_back(shared: Sandbox) -> None:
    shared.commands.run("true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        shared.commands.run("true")
        shared.commands.run(["/no/such"])
        shared.commands.run("sleep 10", timeout=0.1)
        with pytest.raises(SandboxError):
            shared.commands.run("true", cwd="/nowhere")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_terminal(shared: Sandbox) -> None:
    terminal = shared.pty.create(["sh"], rows=30, columns=100, env={"PS1": ""})
    terminal.send("stty -echo; stty size; test -t 0 && echo yes $TERM\n")
    text = ""
    for piece in terminal:
        text += piece.text
        if "yes xterm" in text and text.endswith("\n"):
            break
    assert "30 100\r\nyes xterm-256color\r\n" in text
    terminal.resize(40, 120)
    terminal.send("stty size; exit 5\n")
    result = terminal.wait(60)
    assert result.exit_code == 5 and "40 120" in result.stdout
    with pytest.raises(InvalidArgument, match="rows"):
        shared.pty.create(rows=0)


def test_a_terminal_that_is_killed(shared: Sandbox) -> None:
    terminal = shared.pty.create(["sh", "-c", "echo up; sleep 1000"])
    assert "up" in next(iter(terminal)).text
    terminal.kill()
    assert terminal.wait(60).exit_code == 137


def test_with_asyncio(shared: Sandbox) -> None:
    async def main() -> None:
        sandbox = await AsyncSandbox.connect("shared", root=shared._core.root)
        seen: list[str] = []

        async def note(text: str) -> None:
            await asyncio.sleep(0)
            seen.append(text)

        result = await sandbox.commands.run("echo hi; exit 2", on_stdout=note)
        assert (result.exit_code, seen) == (2, ["hi\n"])
        handle = await sandbox.commands.run(["cat"], background=True, stdin=True)
        await handle.send_stdin("x" * 100_000)
        handle.close_stdin()
        assert sum([len(piece.data) async for piece in handle]) == 100_000
        assert (await handle.wait()).ok
        terminal = await sandbox.pty.create(["sh", "-c", "read a; echo got $a"])
        await terminal.send("it\n")
        assert "got it" in (await terminal.wait()).stdout
        results = await asyncio.gather(*[sandbox.commands.run(f"echo {n}") for n in range(10)])
        assert [each.stdout for each in results] == [f"{n}\n" for n in range(10)]

    asyncio.run(main())


def test_a_task_that_is_cancelled(shared: Sandbox) -> None:
    before = runs(shared)

    async def main() -> None:
        sandbox = await AsyncSandbox.connect("shared", root=shared._core.root)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(sandbox.commands.run("sleep 1000"), 1)

    asyncio.run(main())
    wait_until(lambda: runs(shared) <= before, "the command has ended with the call")
