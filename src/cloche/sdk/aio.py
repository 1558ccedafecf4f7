"""The front for asyncio: the methods of `sdk.sync` as coroutines.

Several tasks may use a sandbox at the same time, but only one at a time may read the output of a command. Callbacks
may be coroutines. A call that is cancelled ends what it has started.
"""

import asyncio
import signal as signals
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar, Unpack, overload

from cloche.sdk import code, commands, events, files, images
from cloche.sdk import core as sandboxes
from cloche.sdk.arguments import data_of
from cloche.sdk.code import Execution, Result
from cloche.sdk.commands import MAX_OUTPUT, TIMEOUT_S, Command
from cloche.sdk.core import SandboxCore
from cloche.sdk.effects import Source, deadline_of, drive_async
from cloche.sdk.files import MAX_ENTRIES, MAX_READ, Data
from cloche.sdk.network import follow_approvals
from cloche.sdk.options import CreateOptions, Options, PathLike
from cloche.sdk.results import (
    Change,
    CommandResult,
    FileEvent,
    FileInfo,
    Metrics,
    Output,
    ProcessInfo,
    SandboxEvent,
    SandboxInfo,
)
from cloche.wire import requests

OnText = Callable[[str], object]  # its result is awaited, if it can be
LeftOut = list[str]
Lines = list[str]
Changes = list[Change]
Event = TypeVar("Event")


class AsyncCommandHandle:
    """A command in the background. It ends when this object is garbage-collected, or when its sandbox ends."""

    def __init__(self, command: Command) -> None:
        self._command: Command = command

    @property
    def pid(self) -> int:
        """The command's process id inside the sandbox; 0 if it did not start."""
        return self._command.pid

    async def __aiter__(self) -> AsyncIterator[Output]:
        """Yield the command's output as it comes, until the command has ended."""
        self._command.begin_following()
        try:
            while True:
                found = await drive_async(self._command.next_output())
                if found is None:
                    return
                self._command.keep(found)
                for each in found:
                    yield each
        finally:
            self._command.end_following()

    async def send_stdin(self, data: str | bytes, timeout: float | None = None) -> None:
        """Write to the command's standard input, and wait until the command has room for it. The command must have
        been started with `stdin=True`. Raises SandboxError if it takes no more input, SandboxTimeout after `timeout`
        seconds.
        """
        await drive_async(self._command.send_input(data_of("data", data), timeout))

    def close_stdin(self) -> None:
        """Close the command's standard input: it reads the end of the file. It does no harm if the command, or its
        sandbox, has ended.
        """
        self._command.close_stdin()

    def kill(self, signal: int = signals.SIGKILL) -> None:
        """Send a signal to the command and to every process that it has started and that is still in its session. It
        does no harm if the command, or its sandbox, has ended: `wait()` tells how. Raises SandboxError.
        """
        self._command.send_signal(signal)

    async def wait(
        self,
        timeout: float | None = None,
        *,
        check: bool = False,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
    ) -> CommandResult:
        """Wait until the command has ended. Raises SandboxTimeout after `timeout` seconds, and the command goes on;
        with `check` CommandError if it failed.
        """
        return await drive_async(
            commands.wait_for(
                self._command, check=check, on_stdout=on_stdout, on_stderr=on_stderr, timeout=timeout
            )
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._command.close()


class AsyncCommands:
    """Commands in a sandbox."""

    def __init__(self, core: SandboxCore) -> None:
        self._core: SandboxCore = core

    @overload
    async def run(
        self,
        command: str | Sequence[str],
        *,
        background: Literal[False] = False,
        timeout: float | None = TIMEOUT_S,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        envs: Mapping[str, str] | None = None,
        user: int | str | None = None,
        stdin: str | bytes | None = None,
        check: bool = False,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        max_output: int = MAX_OUTPUT,
    ) -> CommandResult: ...

    @overload
    async def run(
        self,
        command: str | Sequence[str],
        *,
        background: Literal[True],
        timeout: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        envs: Mapping[str, str] | None = None,
        user: int | str | None = None,
        stdin: str | bytes | bool | None = None,
        max_output: int = MAX_OUTPUT,
    ) -> AsyncCommandHandle: ...

    async def run(
        self,
        command: str | Sequence[str],
        *,
        background: bool = False,
        timeout: float | None = TIMEOUT_S,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        envs: Mapping[str, str] | None = None,
        user: int | str | None = None,
        stdin: str | bytes | bool | None = None,
        check: bool = False,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        max_output: int = MAX_OUTPUT,
    ) -> CommandResult | AsyncCommandHandle:
        """Run a command: text for /bin/sh, or a program and its arguments.

        `run` waits for the end of the command, at most `timeout` seconds (None: without limit). After that the
        command and every process of its session are killed, and the result says `timed_out`. A command that fails
        raises CommandError only if `check` is true. `max_output` bytes of each stream are kept; the rest is read and
        dropped. With `background`, `run` returns a handle at once.
        """
        request = commands.make_request(command, cwd=cwd, env=env, envs=envs)
        if background:
            limit = None if timeout == TIMEOUT_S else timeout
            return AsyncCommandHandle(
                await drive_async(
                    commands.start(
                        self._core, request, user=user, stdin=stdin, timeout=limit, max_output=max_output
                    )
                )
            )
        return await drive_async(
            commands.run(
                self._core,
                command,
                request,
                user=user,
                stdin=None if isinstance(stdin, bool) else stdin,
                timeout=timeout,
                max_output=max_output,
                check=check,
                on_stdout=on_stdout,
                on_stderr=on_stderr,
            )
        )

    async def exec(self, *argv: str, timeout: float | None = TIMEOUT_S, check: bool = False) -> CommandResult:
        """Run a program with these arguments, without a shell; otherwise as `run`."""
        return await self.run(argv, timeout=timeout, check=check)

    async def connect(self, pid: int) -> AsyncCommandHandle:
        """Return another handle of a command in the background, which this process has started by this `Sandbox` or
        another.

        Output that was not read yet goes to the handle that reads first; only one may read at a time. Raises
        SandboxError if there is no such command.
        """
        return AsyncCommandHandle(commands.find(self._core, pid))

    async def list(self) -> list[ProcessInfo]:
        """List the processes inside."""
        return await drive_async(self._core.processes())


class AsyncPtyHandle(AsyncCommandHandle):
    """A command on a terminal of its own; what the terminal shows comes as "stdout"."""

    async def send(self, data: str | bytes, timeout: float | None = None) -> None:
        """Type text into the terminal. Waits and raises as `send_stdin`."""
        await self.send_stdin(data, timeout)

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size."""
        self._command.resize(rows, columns)


class AsyncPty:
    """Terminals in a sandbox."""

    def __init__(self, core: SandboxCore) -> None:
        self._core: SandboxCore = core

    async def create(
        self,
        command: str | Sequence[str] = ("/bin/sh", "-i"),
        *,
        rows: int = 24,
        columns: int = 80,
        timeout: float | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        envs: Mapping[str, str] | None = None,
        user: int | str | None = None,
        max_output: int = MAX_OUTPUT,
    ) -> AsyncPtyHandle:
        """Start a command on a new terminal."""
        request = commands.make_request(command, cwd=cwd, env=env, envs=envs)
        commands.give_terminal(request, rows, columns)
        return AsyncPtyHandle(
            await drive_async(
                commands.start(
                    self._core, request, user=user, stdin=True, timeout=timeout, max_output=max_output
                )
            )
        )


class AsyncEventHandle(Generic[Event]):
    """Events as they come, until `stop`; iterate over it to wait for them."""

    def __init__(self, source: Source[Event]) -> None:
        self._source: Source[Event] = source

    async def next_event(self, timeout: float | None = None) -> Event | None:
        """The next event; None if there was none within `timeout` seconds, or no more will come."""
        return await drive_async(self._source.next_event(deadline_of(timeout)))

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self.next_event()) is not None:
            yield event

    async def stop(self) -> None:
        """Stop waiting for events, and give the connection up."""
        self._source.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


class AsyncSandboxEvents(AsyncEventHandle[SandboxEvent]):
    """The events of a sandbox until it has ended: "ended" is the last."""


class AsyncWatchHandle(AsyncEventHandle[FileEvent]):
    """The events in a directory that is watched."""

    def __init__(self, watch: files.Watch) -> None:
        super().__init__(watch)
        self._watch: files.Watch = watch

    @property
    def path(self) -> str:
        """The directory."""
        return self._watch.path

    async def get_new_events(self) -> list[FileEvent]:
        """The events since the last call."""
        return await drive_async(self._watch.waiting())

    def close(self) -> None:
        """As `stop`, for callers that cannot await."""
        self._watch.close()


class AsyncFiles:
    """Files in a sandbox.

    Paths are absolute inside, or relative to the directory that the sandbox was made with. With `user` a call acts
    with the rights of that user of the sandbox, instead of those of the user that the sandbox was made with. A call
    that the sandbox's kernel refuses raises FileError (FileNotFound for ENOENT).
    """

    def __init__(self, core: SandboxCore) -> None:
        self._core: SandboxCore = core

    @overload
    async def read(
        self,
        path: PathLike,
        *,
        format: Literal["text"] = "text",
        user: int | str | None = None,
        max_bytes: int = MAX_READ,
    ) -> str: ...

    @overload
    async def read(
        self,
        path: PathLike,
        *,
        format: Literal["bytes"],
        user: int | str | None = None,
        max_bytes: int = MAX_READ,
    ) -> bytes: ...

    async def read(
        self,
        path: PathLike,
        *,
        format: Literal["text", "bytes"] = "text",
        user: int | str | None = None,
        max_bytes: int = MAX_READ,
    ) -> str | bytes:
        """Read a whole file of at most `max_bytes`. As text it must be UTF-8, or InvalidArgument is raised; with
        `format="bytes"` it may be anything.
        """
        data = await drive_async(files.read(self._core, path, user, max_bytes))
        return data if format == "bytes" else files.as_text(data, path)

    async def stream(self, path: PathLike, *, user: int | str | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the contents of a file piece by piece, however large it is."""
        contents = files.Contents(self._core, path, user)
        try:
            while True:
                data = await drive_async(contents.next_piece())
                if not data:
                    return
                yield data
        finally:
            contents.close()

    async def write(
        self, path: PathLike, data: Data, *, mode: int | None = None, user: int | str | None = None
    ) -> FileInfo:
        """Write a file: text, bytes, or a binary file object, which is read piece by piece.

        Missing directories above it are made. The file gets its new contents as a whole or not at all.
        """
        return await drive_async(files.write(self._core, path, data, mode=mode, user=user))

    async def write_files(
        self, files_: Mapping[str, Data], *, mode: int | None = None, user: int | str | None = None
    ) -> int:
        """Write many files at once, given by path. Returns how many were written."""
        return await drive_async(files.write_files(self._core, files_, mode=mode, user=user))

    async def list(
        self,
        path: PathLike,
        *,
        depth: int = 1,
        user: int | str | None = None,
        max_entries: int = MAX_ENTRIES,
    ) -> list[FileInfo]:
        """List a directory, and the directories in it down to `depth` levels."""
        return await drive_async(files.listing(self._core, path, depth, user, max_entries))

    async def exists(self, path: PathLike, *, user: int | str | None = None) -> bool:
        """Whether there is a file of any kind at a path."""
        return await drive_async(files.exists(self._core, path, user))

    async def get_info(
        self, path: PathLike, *, follow: bool = False, user: int | str | None = None
    ) -> FileInfo:
        """Describe the file at a path. With `follow`, a symbolic link at its end is followed."""
        return await drive_async(files.get_info(self._core, path, user, follow=follow))

    async def make_dir(self, path: PathLike, *, user: int | str | None = None) -> bool:
        """Make a directory and the missing ones above it. False: the directory was there already."""
        return await drive_async(files.make_dir(self._core, path, user))

    async def remove(self, path: PathLike, *, user: int | str | None = None) -> None:
        """Remove a file, or a directory with all that is in it."""
        await drive_async(files.remove(self._core, path, user))

    async def rename(self, old: PathLike, new: PathLike, *, user: int | str | None = None) -> None:
        """Rename a file or directory, as rename(2): a file that has the new name is replaced."""
        await drive_async(files.rename(self._core, old, new, user))

    async def watch_dir(
        self, path: PathLike, *, recursive: bool = False, user: int | str | None = None
    ) -> AsyncWatchHandle:
        """Watch a directory, or with `recursive` all below it.

        No change is missed from the moment this returns. In volumes of the host only changes that are made inside the
        sandbox are seen.
        """
        watch = files.Watch(self._core, path)
        await drive_async(watch.begin(user, is_recursive=recursive))
        return AsyncWatchHandle(watch)

    async def upload(self, source: PathLike, target: PathLike, *, user: int | str | None = None) -> LeftOut:
        """Copy a file or a tree of the host into the sandbox, as `target`. Returns what was left out, and why."""
        return await drive_async(files.upload(self._core, source, target, user))

    async def download(self, source: PathLike, target: PathLike, *, user: int | str | None = None) -> LeftOut:
        """Copy a file or a tree of the sandbox to the host, as `target`.

        Returns what was left out, and why. Nothing is written outside of `target`. Symbolic links are copied as
        links: programs inside chose their targets, so be careful when following them.
        """
        return await drive_async(files.download(self._core, source, target, user))


class AsyncCodeContext:
    """An interpreter in the sandbox that keeps its state from cell to cell."""

    def __init__(self, context: code.Context) -> None:
        self._context: code.Context = context

    @property
    def language(self) -> str:
        """The language that it runs: python, bash or node."""
        return self._context.language

    def interrupt(self) -> None:
        """Interrupt the code that is running in it, as Ctrl-C does."""
        self._context.interrupt()

    def close(self) -> None:
        """End the interpreter."""
        self._context.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncSandbox:
    """A sandbox.  Made by `create`, it ends with this object (`with`, `kill`), and with this process."""

    def __init__(self, core: SandboxCore) -> None:
        """Use `create` or `connect`."""
        self._core: SandboxCore = core
        self.commands: AsyncCommands = AsyncCommands(core)
        self.pty: AsyncPty = AsyncPty(core)
        self.files: AsyncFiles = AsyncFiles(core)
        self._contexts: code.Contexts = code.Contexts(core)
        self._approvals: asyncio.Task[None] | None = None

    @classmethod
    async def create(cls, **given: Unpack[CreateOptions]) -> Self:
        """Start a sandbox; `CreateOptions` lists the arguments. Raises InvalidArgument, StartError. `on_approval` may
        be a coroutine.
        """
        options = Options(given)
        core = await drive_async(sandboxes.create(options))
        made = cls(core)
        if options.on_approval is not None:
            work = follow_approvals(core.root, core.name, options.on_approval)
            made._approvals = asyncio.create_task(drive_async(work))
        return made

    @classmethod
    async def connect(cls, name: str, *, root: str = "") -> Self:
        """Return an object for a sandbox that runs already. The sandbox does not end with this object, but with the
        process that made it, or by `kill`. Raises NotFound.
        """
        return cls(await drive_async(sandboxes.find(name, root)))

    @staticmethod
    def list(*, metadata: Mapping[str, str] | None = None, root: str = "") -> list[SandboxInfo]:
        """List this user's running sandboxes that have these metadata."""
        return sandboxes.listing(root, dict(metadata or {}))

    async def run_code(
        self,
        code_: str,
        language: str = "python",
        *,
        context: AsyncCodeContext | None = None,
        timeout: float | None = code.TIMEOUT_S,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        on_result: Callable[[Result], object] | None = None,
    ) -> Execution:
        """Run a cell of code ("python", "bash", "node") in a context, an interpreter that keeps its state: the
        default one of the language, or one that `create_code_context` made.

        An exception of the code is in `error` of the result; values of last expressions, and pictures, are in
        `results`. After `timeout` seconds the cell is interrupted; if that does not end the cell, its context is
        ended. Raises CodeError, SandboxError.
        """
        chosen = context._context if context is not None else None
        listener = code.Listener(on_stdout, on_stderr, on_result)
        return await drive_async(code.run_code(self._contexts, code_, language, chosen, timeout, listener))

    async def create_code_context(
        self,
        language: str = "python",
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: int | str | None = None,
    ) -> AsyncCodeContext:
        """Start a further interpreter, with a state of its own. Raises CodeError, SandboxError."""
        return AsyncCodeContext(
            await drive_async(code.start(self._core, language, cwd=cwd, env=env, user=user))
        )

    @property
    def name(self) -> str:
        """The sandbox's name, as `cloche exec NAME` and the other commands take it."""
        return self._core.name

    @property
    def sandbox_id(self) -> str:
        """The sandbox's `name`, under E2B's name for it."""
        return self._core.name

    async def commit(
        self, image: str, *, changes: Sequence[str] = (), message: str = "", timestamp: int | None = None
    ) -> str:
        """Make an image: the image that the sandbox was made from, with what the sandbox has changed as a further
        layer.

        Returns the new image's digest. `changes`: instructions of a Dockerfile ("CMD …", "ENV K=V", …); `timestamp`
        (seconds since the epoch): files that are newer get this time. Raises SandboxError.
        """
        words = images.commit_words(self._core.name, self._core.root, image, changes, message, timestamp)
        return await asyncio.to_thread(images.commit, words)

    async def kill(self) -> bool:
        """End it at once, with everything inside. False: it had ended before."""
        self._contexts.close()
        if self._approvals is not None:
            self._approvals.cancel()
        return await drive_async(self._core.kill())

    async def set_timeout(self, timeout: float | None) -> None:
        """Have the sandbox end `timeout` seconds from now; None: it has no time limit any more."""
        await drive_async(self._core.set_timeout(timeout))

    async def pause(self) -> None:
        """Stop everything inside until `resume`; the sandbox stays in memory."""
        await drive_async(self._core.call(requests.PAUSE))

    async def resume(self) -> None:
        """Let everything inside run again after `pause`."""
        await drive_async(self._core.call(requests.RESUME))

    async def is_running(self) -> bool:
        """Whether the sandbox has not ended; true of a paused one, too."""
        return await drive_async(self._core.is_running())

    async def get_info(self) -> SandboxInfo:
        """The sandbox's name, state, metadata and ports, and how many seconds it has left."""
        return await drive_async(self._core.info())

    async def get_metrics(self) -> Metrics:
        """Measure its memory, processor time and number of processes."""
        return await drive_async(self._core.metrics())

    async def events(self) -> AsyncSandboxEvents:
        """Events of the sandbox from now on: paused, resumed, out of memory, ended."""
        return AsyncSandboxEvents(await drive_async(events.follow(self._core)))

    async def diff(self, paths: Sequence[PathLike] = (), *, max_entries: int = MAX_ENTRIES) -> Changes:
        """List the files that were added, changed or deleted inside, at or below `paths`; without `paths`, anywhere."""
        return await drive_async(files.changes(self._core, paths, max_entries))

    async def apply(
        self,
        paths: Sequence[PathLike] = (),
        *,
        to: PathLike | None = None,
        dry_run: bool = False,
        force: bool = False,
        undo: bool = False,
    ) -> Lines:
        """Make the changes that `diff` lists on the host, at or below `paths` or all, as `cloche apply`: in the
        directories that `mounts` shows, or below `to` instead. Returns a line for each change that was made, or with
        `dry_run` would be. `force` overwrites what the host has changed meanwhile; `undo` takes the last application
        back. Raises SandboxError if any of it could not be done.
        """
        words = images.apply_words(
            self._core.name, self._core.root, paths, to, is_trial=dry_run, is_forced=force, undoes=undo
        )
        return await asyncio.to_thread(images.apply, words)

    def get_host(self, port: int) -> str:
        """Return "ADDRESS:PORT" of this host, under which a port of the sandbox is reached. `create` must have been
        given the port in `ports`; otherwise raises InvalidArgument.
        """
        return self._core.host(port)

    async def dial(self, port: int) -> socket.socket:
        """Return a connection to a TCP port of the sandbox, whose ports `create` must have made `reachable` (or
        published). Raises PortClosed if nobody listens there.
        """
        return await drive_async(self._core.dial(port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.kill()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core.name}>"
