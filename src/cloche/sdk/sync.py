"""The blocking front: signatures and their meaning; the other modules of this package do the work.

Several threads may use a sandbox at the same time, but only one at a time may read the output of a command.
"""

import signal as signals
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar, Unpack, overload

from cloche.sdk import code, commands, events, files, images
from cloche.sdk import core as sandboxes
from cloche.sdk.arguments import data_of
from cloche.sdk.code import Execution, Result
from cloche.sdk.commands import MAX_OUTPUT, TIMEOUT_S, Command
from cloche.sdk.core import SandboxCore
from cloche.sdk.effects import Source, deadline_of, drive
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

OnText = Callable[[str], object]
LeftOut = list[str]
Lines = list[str]
Changes = list[Change]
Event = TypeVar("Event")


class CommandHandle:
    """A command in the background. It ends when this object is garbage-collected, or when its sandbox ends."""

    def __init__(self, command: Command) -> None:
        self._command: Command = command

    @property
    def pid(self) -> int:
        """The command's process id inside the sandbox; 0 if it did not start."""
        return self._command.pid

    def __iter__(self) -> Iterator[Output]:
        """Yield the command's output as it comes, until the command has ended."""
        self._command.begin_following()
        try:
            while True:
                found = drive(self._command.next_output())
                if found is None:
                    return
                self._command.keep(found)
                yield from found
        finally:
            self._command.end_following()

    def send_stdin(self, data: str | bytes, timeout: float | None = None) -> None:
        """Write to the command's standard input, and wait until the command has room for it. The command must have
        been started with `stdin=True`. Raises SandboxError if it takes no more input, SandboxTimeout after `timeout`
        seconds.
        """
        drive(self._command.send_input(data_of("data", data), timeout))

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

    def wait(
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
        return drive(
            commands.wait_for(
                self._command, check=check, on_stdout=on_stdout, on_stderr=on_stderr, timeout=timeout
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._command.close()


class Commands:
    """Commands in a sandbox."""

    def __init__(self, core: SandboxCore) -> None:
        self._core: SandboxCore = core

    @overload
    def run(
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
    def run(
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
    ) -> CommandHandle: ...

    def run(
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
    ) -> CommandResult | CommandHandle:
        """Run a command: text for /bin/sh, or a program and its arguments.

        `run` waits for the end of the command, at most `timeout` seconds (None: without limit). After that the
        command and every process of its session are killed, and the result says `timed_out`. A command that fails
        raises CommandError only if `check` is true. `max_output` bytes of each stream are kept; the rest is read and
        dropped. With `background`, `run` returns a handle at once.
        """
        request = commands.make_request(command, cwd=cwd, env=env, envs=envs)
        if background:
            limit = None if timeout == TIMEOUT_S else timeout
            return CommandHandle(
                drive(
                    commands.start(
                        self._core, request, user=user, stdin=stdin, timeout=limit, max_output=max_output
                    )
                )
            )
        return drive(
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

    def exec(self, *argv: str, timeout: float | None = TIMEOUT_S, check: bool = False) -> CommandResult:
        """Run a program with these arguments, without a shell; otherwise as `run`."""
        return self.run(argv, timeout=timeout, check=check)

    def connect(self, pid: int) -> CommandHandle:
        """Return another handle of a command in the background, which this process has started by this `Sandbox` or
        another.

        Output that was not read yet goes to the handle that reads first; only one may read at a time. Raises
        SandboxError if there is no such command.
        """
        return CommandHandle(commands.find(self._core, pid))

    def list(self) -> list[ProcessInfo]:
        """List the processes inside."""
        return drive(self._core.processes())


class PtyHandle(CommandHandle):
    """A command on a terminal of its own; what the terminal shows comes as "stdout"."""

    def send(self, data: str | bytes, timeout: float | None = None) -> None:
        """Type text into the terminal. Waits and raises as `send_stdin`."""
        self.send_stdin(data, timeout)

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size."""
        self._command.resize(rows, columns)


class Pty:
    """Terminals in a sandbox."""

    def __init__(self, core: SandboxCore) -> None:
        self._core: SandboxCore = core

    def create(
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
    ) -> PtyHandle:
        """Start a command on a new terminal."""
        request = commands.make_request(command, cwd=cwd, env=env, envs=envs)
        commands.give_terminal(request, rows, columns)
        return PtyHandle(
            drive(
                commands.start(
                    self._core, request, user=user, stdin=True, timeout=timeout, max_output=max_output
                )
            )
        )


class EventHandle(Generic[Event]):
    """Events as they come, until `stop`; iterate over it to wait for them."""

    def __init__(self, source: Source[Event]) -> None:
        self._source: Source[Event] = source

    def next_event(self, timeout: float | None = None) -> Event | None:
        """The next event; None if there was none within `timeout` seconds, or no more will come."""
        return drive(self._source.next_event(deadline_of(timeout)))

    def __iter__(self) -> Iterator[Event]:
        while (event := self.next_event()) is not None:
            yield event

    def stop(self) -> None:
        """Stop waiting for events, and give the connection up."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class SandboxEvents(EventHandle[SandboxEvent]):
    """The events of a sandbox until it has ended: "ended" is the last."""


class WatchHandle(EventHandle[FileEvent]):
    """The events in a directory that is watched."""

    def __init__(self, watch: files.Watch) -> None:
        super().__init__(watch)
        self._watch: files.Watch = watch

    @property
    def path(self) -> str:
        """The directory."""
        return self._watch.path

    def get_new_events(self) -> list[FileEvent]:
        """The events since the last call."""
        return drive(self._watch.waiting())


class Files:
    """Files in a sandbox.

    Paths are absolute inside, or relative to the directory that the sandbox was made with. With `user` a call acts
    with the rights of that user of the sandbox, instead of those of the user that the sandbox was made with. A call
    that the sandbox's kernel refuses raises FileError (FileNotFound for ENOENT).
    """

    def __init__(self, core: SandboxCore) -> None:
        self._core: SandboxCore = core

    @overload
    def read(
        self,
        path: PathLike,
        *,
        format: Literal["text"] = "text",
        user: int | str | None = None,
        max_bytes: int = MAX_READ,
    ) -> str: ...

    @overload
    def read(
        self,
        path: PathLike,
        *,
        format: Literal["bytes"],
        user: int | str | None = None,
        max_bytes: int = MAX_READ,
    ) -> bytes: ...

    def read(
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
        data = drive(files.read(self._core, path, user, max_bytes))
        return data if format == "bytes" else files.as_text(data, path)

    def stream(self, path: PathLike, *, user: int | str | None = None) -> Iterator[bytes]:
        """Yield the contents of a file piece by piece, however large it is."""
        contents = files.Contents(self._core, path, user)
        try:
            while True:
                data = drive(contents.next_piece())
                if not data:
                    return
                yield data
        finally:
            contents.close()

    def write(
        self, path: PathLike, data: Data, *, mode: int | None = None, user: int | str | None = None
    ) -> FileInfo:
        """Write a file: text, bytes, or a binary file object, which is read piece by piece.

        Missing directories above it are made. The file gets its new contents as a whole or not at all.
        """
        return drive(files.write(self._core, path, data, mode=mode, user=user))

    def write_files(
        self, files_: Mapping[str, Data], *, mode: int | None = None, user: int | str | None = None
    ) -> int:
        """Write many files at once, given by path. Returns how many were written."""
        return drive(files.write_files(self._core, files_, mode=mode, user=user))

    def list(
        self,
        path: PathLike,
        *,
        depth: int = 1,
        user: int | str | None = None,
        max_entries: int = MAX_ENTRIES,
    ) -> list[FileInfo]:
        """List a directory, and the directories in it down to `depth` levels."""
        return drive(files.listing(self._core, path, depth, user, max_entries))

    def exists(self, path: PathLike, *, user: int | str | None = None) -> bool:
        """Whether there is a file of any kind at a path."""
        return drive(files.exists(self._core, path, user))

    def get_info(self, path: PathLike, *, follow: bool = False, user: int | str | None = None) -> FileInfo:
        """Describe the file at a path. With `follow`, a symbolic link at its end is followed."""
        return drive(files.get_info(self._core, path, user, follow=follow))

    def make_dir(self, path: PathLike, *, user: int | str | None = None) -> bool:
        """Make a directory and the missing ones above it. False: the directory was there already."""
        return drive(files.make_dir(self._core, path, user))

    def remove(self, path: PathLike, *, user: int | str | None = None) -> None:
        """Remove a file, or a directory with all that is in it."""
        drive(files.remove(self._core, path, user))

    def rename(self, old: PathLike, new: PathLike, *, user: int | str | None = None) -> None:
        """Rename a file or directory, as rename(2): a file that has the new name is replaced."""
        drive(files.rename(self._core, old, new, user))

    def watch_dir(
        self, path: PathLike, *, recursive: bool = False, user: int | str | None = None
    ) -> WatchHandle:
        """Watch a directory, or with `recursive` all below it.

        No change is missed from the moment this returns. In volumes of the host only changes that are made inside the
        sandbox are seen.
        """
        watch = files.Watch(self._core, path)
        drive(watch.begin(user, is_recursive=recursive))
        return WatchHandle(watch)

    def upload(self, source: PathLike, target: PathLike, *, user: int | str | None = None) -> LeftOut:
        """Copy a file or a tree of the host into the sandbox, as `target`. Returns what was left out, and why."""
        return drive(files.upload(self._core, source, target, user))

    def download(self, source: PathLike, target: PathLike, *, user: int | str | None = None) -> LeftOut:
        """Copy a file or a tree of the sandbox to the host, as `target`.

        Returns what was left out, and why. Nothing is written outside of `target`. Symbolic links are copied as
        links: programs inside chose their targets, so be careful when following them.
        """
        return drive(files.download(self._core, source, target, user))


class CodeContext:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Sandbox:
    """A sandbox.  Made by `create`, it ends with this object (`with`, `kill`), and with this process."""

    def __init__(self, core: SandboxCore) -> None:
        """Use `create` or `connect`."""
        self._core: SandboxCore = core
        self.commands: Commands = Commands(core)
        self.pty: Pty = Pty(core)
        self.files: Files = Files(core)
        self._contexts: code.Contexts = code.Contexts(core)

    @classmethod
    def create(cls, **given: Unpack[CreateOptions]) -> Self:
        """Start a sandbox; `CreateOptions` lists the arguments. Raises InvalidArgument, StartError. `on_approval` is
        called in a thread of its own.
        """
        options = Options(given)
        core = drive(sandboxes.create(options))
        if options.on_approval is not None:
            work = follow_approvals(core.root, core.name, options.on_approval)
            threading.Thread(target=drive, args=(work,), name="cloche approvals", daemon=True).start()
        return cls(core)

    @classmethod
    def connect(cls, name: str, *, root: str = "") -> Self:
        """Return an object for a sandbox that runs already. The sandbox does not end with this object, but with the
        process that made it, or by `kill`. Raises NotFound.
        """
        return cls(drive(sandboxes.find(name, root)))

    @staticmethod
    def list(*, metadata: Mapping[str, str] | None = None, root: str = "") -> list[SandboxInfo]:
        """List this user's running sandboxes that have these metadata."""
        return sandboxes.listing(root, dict(metadata or {}))

    def run_code(
        self,
        code_: str,
        language: str = "python",
        *,
        context: CodeContext | None = None,
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
        return drive(code.run_code(self._contexts, code_, language, chosen, timeout, listener))

    def create_code_context(
        self,
        language: str = "python",
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: int | str | None = None,
    ) -> CodeContext:
        """Start a further interpreter, with a state of its own. Raises CodeError, SandboxError."""
        return CodeContext(drive(code.start(self._core, language, cwd=cwd, env=env, user=user)))

    @property
    def name(self) -> str:
        """The sandbox's name, as `cloche exec NAME` and the other commands take it."""
        return self._core.name

    @property
    def sandbox_id(self) -> str:
        """The sandbox's `name`, under E2B's name for it."""
        return self._core.name

    def commit(
        self, image: str, *, changes: Sequence[str] = (), message: str = "", timestamp: int | None = None
    ) -> str:
        """Make an image: the image that the sandbox was made from, with what the sandbox has changed as a further
        layer.

        Returns the new image's digest. `changes`: instructions of a Dockerfile ("CMD …", "ENV K=V", …); `timestamp`
        (seconds since the epoch): files that are newer get this time. Raises SandboxError.
        """
        words = images.commit_words(self._core.name, self._core.root, image, changes, message, timestamp)
        return images.commit(words)

    def kill(self) -> bool:
        """End it at once, with everything inside. False: it had ended before."""
        self._contexts.close()
        return drive(self._core.kill())

    def set_timeout(self, timeout: float | None) -> None:
        """Have the sandbox end `timeout` seconds from now; None: it has no time limit any more."""
        drive(self._core.set_timeout(timeout))

    def pause(self) -> None:
        """Stop everything inside until `resume`; the sandbox stays in memory."""
        drive(self._core.call(requests.PAUSE))

    def resume(self) -> None:
        """Let everything inside run again after `pause`."""
        drive(self._core.call(requests.RESUME))

    def is_running(self) -> bool:
        """Whether the sandbox has not ended; true of a paused one, too."""
        return drive(self._core.is_running())

    def get_info(self) -> SandboxInfo:
        """The sandbox's name, state, metadata and ports, and how many seconds it has left."""
        return drive(self._core.info())

    def get_metrics(self) -> Metrics:
        """Measure its memory, processor time and number of processes."""
        return drive(self._core.metrics())

    def events(self) -> SandboxEvents:
        """Events of the sandbox from now on: paused, resumed, out of memory, ended."""
        return SandboxEvents(drive(events.follow(self._core)))

    def diff(self, paths: Sequence[PathLike] = (), *, max_entries: int = MAX_ENTRIES) -> Changes:
        """List the files that were added, changed or deleted inside, at or below `paths`; without `paths`, anywhere."""
        return drive(files.changes(self._core, paths, max_entries))

    def apply(
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
        return images.apply(words)

    def get_host(self, port: int) -> str:
        """Return "ADDRESS:PORT" of this host, under which a port of the sandbox is reached. `create` must have been
        given the port in `ports`; otherwise raises InvalidArgument.
        """
        return self._core.host(port)

    def dial(self, port: int) -> socket.socket:
        """Return a connection to a TCP port of the sandbox, whose ports `create` must have made `reachable` (or
        published). Raises PortClosed if nobody listens there.
        """
        return drive(self._core.dial(port))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core.name}>"
