"""A program that uses every public method of the SDK, for type checkers: `test_types.py` lets them read it."""

import asyncio
from pathlib import Path

from cloche import AsyncSandbox, Mount, Sandbox
from cloche.sdk import (
    Approval,
    AsyncCodeContext,
    AsyncCommandHandle,
    Change,
    CodeContext,
    CommandError,
    CommandHandle,
    CommandResult,
    Execution,
    FileError,
    FileEvent,
    FileInfo,
    Metrics,
    NetRequest,
    NetRule,
    NetSecret,
    ProcessInfo,
    Result,
    SandboxError,
    SandboxEvent,
    SandboxInfo,
)


def approve(approval: Approval) -> bool:
    return not repr(approval)


def with_everything(folder: Path) -> str:
    """Every argument of `create`."""
    sandbox = Sandbox.create(
        rootfs=folder,
        image="debian",
        template="prepared",
        timeout=1.5,
        env={"A": "1"},
        envs={"B": "2"},
        cwd="/work",
        user="1000:1000",
        memory="512m",
        cpus=0.5,
        pids=100,
        disk="2g",
        keep=True,
        mounts=["a:b:ro", Mount(folder, "/work", "rw")],
        ports=[8000, "127.0.0.1:8080:80"],
        reachable=True,
        allow=["example.org"],
        deny=["example.com"],
        network="pypi",
        secrets=[NetSecret(name="TOKEN", value="x", host="example.org", header="Authorization")],
        on_approval=approve,
        hostname="box",
        read_only=True,
        metadata={"for": "types"},
        name="box",
        leash=False,
        platform="systrap",
        root=str(folder),
        options=["--init"],
    )
    return sandbox.name


def program(folder: Path) -> str:
    rule = NetRule(
        host="api.example.com",
        inspect=True,
        requests=[NetRequest(methods=["GET"], paths=["/v1/**"], ask="host")],
        secrets=[NetSecret(name="TOKEN", value="x", header="Authorization")],
    )
    with Sandbox.create(
        timeout=150,
        memory="512m",
        cpus=1,
        mounts=[Mount(folder, "/work"), "a:b:ro"],
        network=[rule],
        on_approval=approve,
        reachable=True,
    ) as sandbox:
        done: CommandResult = sandbox.commands.run("true", env={"A": "1"}, check=True, on_stdout=print)
        sandbox.commands.exec("echo", "hi", timeout=5)
        processes: list[ProcessInfo] = sandbox.commands.list()
        handle: CommandHandle = sandbox.commands.run(["cat"], background=True, stdin=True)
        another: CommandHandle = sandbox.commands.connect(handle.pid)
        another.kill()
        handle.send_stdin("a")
        handle.close_stdin()
        pieces = [piece.text for piece in handle]
        handle.kill()
        code: int = handle.wait(timeout=1).exit_code + handle.pid
        with sandbox.pty.create(["sh"], rows=10, columns=20) as terminal:
            terminal.send("exit\n")
            terminal.resize(20, 40)
            terminal.send_stdin(b"")
            terminal.close_stdin()
            terminal.kill(15)
            terminal.wait()
        written: FileInfo = sandbox.files.write("/a", b"x", mode=0o600)
        number: int = sandbox.files.write_files({"/b": "y"})
        text: str = sandbox.files.read("/a")
        data: bytes = sandbox.files.read("/a", format="bytes") + b"".join(sandbox.files.stream("/a"))
        found: list[FileInfo] = sandbox.files.list("/", depth=2)
        is_there: bool = sandbox.files.exists("/a") and sandbox.files.make_dir("/d")
        with sandbox.events() as news:
            happened: SandboxEvent | None = news.next_event(0)
            print(happened)
            news.stop()
        with sandbox.files.watch_dir("/d", recursive=True) as watch:
            events: list[FileEvent] = watch.get_new_events()
            event: FileEvent | None = watch.next_event(0)
            print([each.name for each in events if event is None or not each.is_dir])
        info: FileInfo = sandbox.files.get_info("/a", follow=True)
        sandbox.files.rename("/a", "/c")
        sandbox.files.remove("/c")
        left_out: list[str] = sandbox.files.upload(folder, "/up") + sandbox.files.download(
            "/up", folder / "down"
        )
        cell: Execution = sandbox.run_code("1", on_stdout=print, on_result=show)
        context: CodeContext = sandbox.create_code_context("bash", cwd="/")
        language: str = context.language
        context.interrupt()
        context.close()
        changes: list[Change] = sandbox.diff(["/b"])
        applied: list[str] = sandbox.apply(["/work"], to=folder, dry_run=True)
        print(applied)
        metrics: Metrics = sandbox.get_metrics()
        about: SandboxInfo = sandbox.get_info()
        sandbox.set_timeout(30)
        sandbox.pause()
        sandbox.resume()
        host: str = sandbox.get_host(8000) if sandbox.is_running() else ""
        with sandbox.dial(8000) as connection:
            connection.sendall(b"x")
        digest: str = sandbox.commit("name:tag", message="m")
        again: list[SandboxInfo] = Sandbox.list(metadata={"a": "b"})
        other = Sandbox.connect(sandbox.name)
        other.kill()
        known = (
            done.stdout,
            processes,
            pieces,
            code,
            written.name,
            number,
            text,
            data,
            found,
            is_there,
            info,
            left_out,
        )
        more = (cell.text, language, changes, metrics.memory_bytes, about.state, host, digest, again)
        return f"{known} {more} {sandbox.sandbox_id}"


def show(result: Result) -> None:
    print(result.text, result.png_bytes)


async def async_program(folder: Path) -> str:
    async with await AsyncSandbox.create(template="prepared", disk=1 << 30, timeout=150) as sandbox:
        done: CommandResult = await sandbox.commands.run("true")
        await sandbox.commands.exec("echo", "hi")
        processes: list[ProcessInfo] = await sandbox.commands.list()
        handle: AsyncCommandHandle = await sandbox.commands.run("cat", background=True, stdin=True)
        another: AsyncCommandHandle = await sandbox.commands.connect(handle.pid)
        another.kill()
        await handle.send_stdin("a")
        handle.close_stdin()
        pieces = [piece.text async for piece in handle]
        handle.kill()
        code: int = (await handle.wait()).exit_code + handle.pid
        async with await sandbox.pty.create() as terminal:
            await terminal.send("exit\n")
            terminal.resize(20, 40)
            await terminal.send_stdin(b"")
            terminal.close_stdin()
            terminal.kill()
            await terminal.wait()
        written: FileInfo = await sandbox.files.write("/a", "x")
        number: int = await sandbox.files.write_files({"/b": "y"})
        text: str = await sandbox.files.read("/a")
        data: bytes = await sandbox.files.read("/a", format="bytes")
        streamed = [piece async for piece in sandbox.files.stream("/a")]
        found: list[FileInfo] = await sandbox.files.list("/")
        is_there: bool = await sandbox.files.exists("/a") and await sandbox.files.make_dir("/d")
        async with await sandbox.events() as news:
            happened: SandboxEvent | None = await news.next_event(0)
            print(happened)
            await news.stop()
        async with await sandbox.files.watch_dir("/d") as watch:
            events: list[FileEvent] = await watch.get_new_events()
            async for event in watch:
                events.append(event)
        info: FileInfo = await sandbox.files.get_info("/a")
        await sandbox.files.rename("/a", "/c")
        await sandbox.files.remove("/c")
        left_out: list[str] = await sandbox.files.upload(folder, "/up")
        left_out += await sandbox.files.download("/up", folder / "down")
        cell: Execution = await sandbox.run_code("1")
        context: AsyncCodeContext = await sandbox.create_code_context()
        language: str = context.language
        context.interrupt()
        context.close()
        changes: list[Change] = await sandbox.diff()
        applied: list[str] = await sandbox.apply(undo=True)
        print(applied)
        metrics: Metrics = await sandbox.get_metrics()
        about: SandboxInfo = await sandbox.get_info()
        await sandbox.set_timeout(None)
        await sandbox.pause()
        await sandbox.resume()
        host: str = sandbox.get_host(8000) if await sandbox.is_running() else ""
        (await sandbox.dial(8000)).close()
        digest: str = await sandbox.commit("name:tag")
        again: list[SandboxInfo] = AsyncSandbox.list()
        other = await AsyncSandbox.connect(sandbox.name)
        await other.kill()
        known = (
            done.stdout,
            processes,
            pieces,
            code,
            written,
            number,
            text,
            data,
            streamed,
            found,
            is_there,
            info,
        )
        more = (left_out, cell, language, changes, metrics, about, host, digest, again)
        return f"{known} {more} {sandbox.sandbox_id}"


def main() -> None:
    try:
        with_everything(Path("/tmp"))
        program(Path("/tmp"))
        asyncio.run(async_program(Path("/tmp")))
    except CommandError as error:
        print(error.result.stderr)
    except FileError as error:
        print(error.errno, error.path)
    except SandboxError as error:
        print(error)


if __name__ == "__main__":
    main()
