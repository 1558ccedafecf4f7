"""Commands and terminals in a sandbox, as both fronts use them.

A command writes to pipes of this process. Its output is kept up to a limit; the rest is read and dropped, so that
endless output neither stops the command nor fills memory. A command has ended when the sandbox's kernel says so. By
then everything that it wrote is in the pipes; children that it left behind with an open pipe are not waited for.
"""

import fcntl
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

from cloche.sdk.arguments import (
    check_callable,
    check_count,
    check_seconds,
    data_of,
    encoded,
    is_whole,
    items_of,
)
from cloche.sdk.core import SandboxCore
from cloche.sdk.effects import Call, Steps, deadline_of, wait
from cloche.sdk.errors import CommandError, InvalidArgument, SandboxEnded, SandboxError, SandboxTimeout
from cloche.sdk.files import inside, resolve_user
from cloche.sdk.link import ANOTHER, ENDED_TEXT, EXIT_INTERNAL, KILL, PATIENCE_S, Link, Refused, refusal
from cloche.sdk.options import env_items
from cloche.sdk.results import CommandResult, Output
from cloche.wire import protocol, requests
from cloche.wire.protocol import take_bool, take_int, take_text
from cloche.wire.requests import ExecRequest

TIMEOUT_S: Final = 60.0  # of a command that is waited for, unless another is asked for
MAX_OUTPUT: Final = 16 << 20  # bytes of each stream that are kept
EXIT_TIMEOUT: Final = 124
STDOUT: Final = "stdout"
STDERR: Final = "stderr"
_NAMES: Final = (STDOUT, STDERR)
_READ_BYTES: Final = 1 << 16
_PIPE_BYTES: Final = 1 << 20  # of a pipe: room for output that was not read yet
_ROUNDS: Final = 64  # reads of one stream before others have their turn
_MAX_SIGNAL: Final = 64  # SIGRTMAX
_END_S: Final = 10.0  # for a command that was killed to be gone

OnOutput = Callable[[Any], object]

# The commands of this process to which references exist, by the root and name of their sandbox and their pid inside.
_RUNNING: Final["WeakValueDictionary[tuple[str, str, int], Command]"] = WeakValueDictionary()


def _pipe(fds: list[int]) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    fds += [read, write]
    return read, write


def argv_of(command: str | Sequence[str]) -> list[bytes]:
    """The arguments of a command: a string is run by the shell, a sequence is a program and its arguments. Raises
    InvalidArgument.
    """
    words = ["/bin/sh", "-c", command] if isinstance(command, str) else items_of("command", command)
    if not words or not all(isinstance(word, (str, bytes)) for word in words):
        raise InvalidArgument("command: write text for the shell, or a list of words, at least one")
    found = [encoded("command", word) for word in words]
    if any(b"\0" in word for word in found):
        raise InvalidArgument("command: a word has a NUL byte, which no program can be given")
    return found


def shown(command: str | Sequence[str]) -> str:
    """The command as text, for error messages."""
    text = command if isinstance(command, str) else " ".join([os.fsdecode(word) for word in command])
    text = text.strip().splitlines()[0] if text.strip() else "''"
    return text if len(text) <= 80 else text[:79] + "…"


def exit_code_of(status: int) -> int:
    """The exit code that a shell shows for a wait status."""
    return 128 + (status & 0x7F) if status & 0x7F else status >> 8 & 0xFF


class Stream:
    """The reading end of a pipe for output, and the part of the output that is kept."""

    def __init__(self, name: str, fd: int, limit: int) -> None:
        self.name: str = name
        self.fd: int = fd
        self.limit: int = limit
        self.kept: bytearray = bytearray()
        self.is_truncated: bool = False

    def read(self) -> bytes:
        """Read what is there now, with at most `_ROUNDS` reads; the caller asks again.

        At the end of the stream the descriptor is closed.
        """
        parts: list[bytes] = []
        for _round in range(_ROUNDS):
            try:
                data = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                break
            if not data:
                self.close()
                break
            parts.append(data)
        return b"".join(parts)

    def keep(self, data: bytes) -> None:
        """For the result."""
        room = self.limit - len(self.kept)
        self.is_truncated = self.is_truncated or len(data) > room
        self.kept += data[:room]

    def close(self) -> None:
        """Stop reading."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Command:
    """A command that runs, or has run."""

    is_closed: bool = True  # until it is made: an interrupt may come in the middle

    def __init__(self, core: SandboxCore, link: Link, limit: int) -> None:
        self.core: SandboxCore = core
        self.link: Link = link
        self.limit: int = limit
        self.ident: int = 0  # of the request
        self.pid: int = 0  # in the sandbox
        self.streams: list[Stream] = []
        self.stdin: int = -1
        # One thread may write input while another, which reads output, finds that it is over: what is written must not
        # go to a descriptor that is something else by then. The lock guards what follows, too, and who takes messages.
        self._lock: Final = threading.RLock()
        self._bells: Final[set[int]] = set()  # eventfds of those that wait
        self._changes: int = 0  # of what those wait for: they look again
        self.pending: memoryview = memoryview(b"")  # input that is yet to be written
        self.closes_stdin: bool = False  # after that
        self.deadline_s: float | None = None
        self.began_s: float = time.monotonic()
        self.timed_out: bool = False
        self.is_followed: bool = False  # a caller reads the output
        self.refused: str = ""  # the argument for which it is refused, if that is why
        self.exit_code: int | None = None
        self.error: str = ""
        self.failure: SandboxError | None = None
        self.result: CommandResult | None = None
        self.is_closed = False

    # -- starting ----------------------------------------------------------------------------------------
    def start(self, request: ExecRequest, stdin: bytes | None, *, has_stdin: bool) -> Steps[None]:
        """Ask for it, and wait until it runs or is known not to.  Raises SandboxError."""
        opened: list[int] = []
        try:
            if request.has_terminal:
                in_read, in_write = _pipe(opened)
                out_read, out_write = _pipe(opened)
                request.streams, theirs = [0, 1], [in_read, out_write]
                ours = [in_write, out_read]
            else:
                if has_stdin:
                    in_read, in_write = _pipe(opened)
                else:
                    in_read, in_write = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1
                    opened.append(in_read)
                out_read, out_write = _pipe(opened)
                err_read, err_write = _pipe(opened)
                request.streams, theirs = [0, 1, 2], [in_read, out_write, err_write]
                ours = [in_write, out_read, err_read]
            for fd in ours:
                if fd >= 0:
                    os.set_blocking(fd, False)
            for fd in ours[1:]:
                try:
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                except OSError:
                    break  # pipes of an ordinary user are limited in size
            self.ident = self.link.ask(requests.EXEC, request.to_fields(), theirs)
        except OSError as error:
            for fd in opened:
                os.close(fd)
            raise SandboxError(f"no pipes for a command: {error.strerror}; close what is not used") from None
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        for fd in theirs:
            os.close(fd)
        self.stdin = ours[0]
        self.streams = [Stream(name, fd, self.limit) for name, fd in zip(_NAMES, ours[1:], strict=False)]
        self.pending = memoryview(stdin or b"")
        self.closes_stdin = stdin is not None
        yield from self._await_start()

    def _await_start(self) -> Steps[None]:
        deadline_s = deadline_of(PATIENCE_S)
        while self.pid == 0 and not self.is_over():
            self._take_messages()
            if self.pid or self.is_over():
                return
            assert deadline_s is not None
            if time.monotonic() >= deadline_s:
                raise SandboxTimeout("the command did not start in time; the sandbox may be overloaded", KILL)
            yield from wait([self.link.fileno()], self.link.wants(), deadline_s)

    def is_over(self) -> bool:
        """Whether it is known how it ended."""
        return self.exit_code is not None or self.failure is not None

    # -- what comes --------------------------------------------------------------------------------------
    def _take_messages(self) -> None:
        for message in self.link.take():
            if message.ident not in (0, self.ident):
                continue
            if message.kind == protocol.EVENT and message.name == requests.STARTED:
                self.pid = take_int(message.fields, "pid", 0, 0, 1 << 30)
            elif message.kind == protocol.EVENT and message.name == requests.REFUSED:
                self.refused = take_text(message.fields, "argument")
            elif message.kind == protocol.REPLY:
                self.exit_code = exit_code_of(take_int(message.fields, "status", 0, 0, 0xFFFF))
                self.timed_out = self.timed_out or take_bool(message.fields, "timed_out")
            elif message.kind == protocol.ERROR:
                self._refused(refusal(message))
        if self.link.is_over and not self.is_over():
            self.failure = SandboxEnded(ENDED_TEXT, ANOTHER)

    def _refused(self, error: SandboxError) -> None:
        if isinstance(error, Refused) and error.status != EXIT_INTERNAL:
            self.exit_code, self.error = error.status, str(error)  # there is no such command
        elif self.refused == requests.CWD:
            self.failure = InvalidArgument(
                f"cwd: {error}; make it first, or start in a directory that is there"
            )
        else:
            self.failure = error

    def _take_unfollowed(self) -> None:
        """Take messages, unless somebody follows: that one waits for them, and would not wake up."""
        if not self.link.is_ours():
            return  # in a fork, where a thread that does not exist may have the lock
        with self._lock:
            if not self.is_followed:
                self._take_messages()

    # -- waiting -----------------------------------------------------------------------------------------
    def _sleep(
        self, changes: int, readers: list[int], writers: list[int], deadline_s: float | None
    ) -> Steps[None]:
        """Wait for these descriptors, or until others have changed what the caller knew at `changes`.  Raises
        SandboxError.
        """
        with self._lock:
            if self._changes != changes:
                return  # the descriptors may be something else by now
            try:
                bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            except OSError as error:
                raise SandboxError(f"no descriptor to wait with: {error.strerror}; close some") from None
            self._bells.add(bell)
        try:
            yield from wait([*readers, bell], writers, deadline_s)
        finally:
            with self._lock:
                self._bells.discard(bell)
                os.close(bell)

    def _changed(self) -> None:
        """Wake those who wait."""
        self._changes += 1
        for bell in tuple(self._bells):
            os.eventfd_write(bell, 1)

    def _write(self) -> None:
        """Write as much of the input as there is room for."""
        while self.pending and self.stdin >= 0:
            try:
                count = self._write_some(self.pending)
            except BlockingIOError:
                return
            except OSError:
                self._close_stdin()  # the command has closed its end
                return
            self.pending = self.pending[count:]
        if self.closes_stdin and not self.pending:
            self._close_stdin()

    def _write_some(self, data: memoryview) -> int:
        """Write what there is room for; how much that was. Raises OSError: BlockingIOError, or it takes no more."""
        with self._lock:
            return os.write(self.stdin, data[:_READ_BYTES])

    def _close_stdin(self) -> None:
        self.pending = memoryview(b"")
        if not self.link.is_ours():
            self._drop_stdin()  # in a fork, where a thread that does not exist may have the lock
            return
        with self._lock:
            if self.stdin >= 0:
                self._drop_stdin()
                self._changed()

    def _drop_stdin(self) -> None:
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def next_output(self, deadline_s: float | None = None) -> Steps[list[Output] | None]:
        """The next pieces of output; None once the command has ended and all its output was returned. An empty list:
        `deadline_s` has come.  Raises SandboxError.
        """
        self.link.check_owner()
        while True:
            changes = self._changes
            self._take_messages()
            was_over = self.is_over()  # before the pipes are read: then nothing is left in them
            found: list[Output] = []
            for stream in self.streams:
                with self._lock:  # another thread may close the handle
                    data = stream.read() if stream.fd >= 0 else b""
                if data:
                    found.append(Output(stream.name, data))
            if found:
                return found
            if was_over:
                self.close()
                return None
            self._write()
            now = time.monotonic()
            if self.deadline_s is not None and now >= self.deadline_s:
                if self.timed_out:
                    self.failure = SandboxTimeout(
                        "a command that was killed is not gone; the sandbox may be overloaded", KILL
                    )
                    continue
                self.timed_out = True
                self.deadline_s = now + _END_S
                self.send_signal(signal.SIGKILL)
            if deadline_s is not None and now >= deadline_s:
                return []
            ends = [each for each in (deadline_s, self.deadline_s) if each is not None]
            readers = [stream.fd for stream in self.streams if stream.fd >= 0]
            writers = self.link.wants()
            if self.stdin >= 0 and self.pending:
                writers.append(self.stdin)
            yield from self._sleep(changes, [self.link.fileno(), *readers], writers, min(ends, default=None))

    def begin_following(self) -> None:
        """Only one at a time may read.  Raises SandboxError."""
        self.link.check_owner()
        with self._lock:
            if self.is_followed:
                raise SandboxError("somebody else waits for this command already; wait in one place only")
            self.is_followed = True

    def end_following(self) -> None:
        """Another may read."""
        if not self.link.is_ours():
            self.is_followed = False
            return
        with self._lock:
            self.is_followed = False
            self._changed()

    def follow(
        self,
        on_stdout: OnOutput | None = None,
        on_stderr: OnOutput | None = None,
        *,
        is_text: bool = True,
        deadline_s: float | None = None,
    ) -> Steps[CommandResult]:
        """Wait for the end of the command, and return its result.

        Callbacks get the output that comes from now on. Raises SandboxError; SandboxTimeout if `deadline_s` has come,
        and then the command goes on.
        """
        if self.result is not None:
            return self.result
        self.begin_following()
        callbacks = {STDOUT: Sink(on_stdout, is_text=is_text), STDERR: Sink(on_stderr, is_text=is_text)}
        try:
            while True:
                found = yield from self.next_output(deadline_s)
                if found is None:
                    break
                if not found:
                    raise StillRuns("the command still runs", "wait() again, or kill() it")
                self.keep(found)
                for each in found:
                    yield from callbacks[each.stream].put(each.data)
            for sink in callbacks.values():
                yield from sink.finish()
            return self.finish()
        except StillRuns:
            raise
        except BaseException:
            if self.result is None:
                self.close()  # cancelled or interrupted: the command ends with its connection
            raise
        finally:
            self.end_following()

    def keep(self, found: list[Output]) -> None:
        """For the result."""
        for each in found:
            for stream in self.streams:
                if stream.name == each.stream:
                    stream.keep(each.data)

    def finish(self) -> CommandResult:
        """The command's result. Raises SandboxError if its end is not known."""
        if self.result is not None:
            return self.result
        self.close()
        if self.failure is not None:
            raise self.failure
        kept = {stream.name: bytes(stream.kept) for stream in self.streams}
        code = self.exit_code if self.exit_code is not None else EXIT_INTERNAL
        self.result = CommandResult(
            exit_code=EXIT_TIMEOUT if self.timed_out else code,
            stdout_bytes=kept.get(STDOUT, b""),
            stderr_bytes=kept.get(STDERR, b""),
            timed_out=self.timed_out,
            truncated=any(stream.is_truncated for stream in self.streams),
            error=self.error,
            duration=time.monotonic() - self.began_s,
        )
        return self.result

    # -- while it runs -----------------------------------------------------------------------------------
    def send_signal(self, signo: int, scope: str = requests.SESSION) -> None:
        """Signal the command and every process that it has started and that is still in its session. Does not wait.
        One that has ended, be it with its sandbox, is none the worse, as for subprocess. Raises SandboxError.
        """
        if not is_whole(signo, 1, _MAX_SIGNAL):
            raise InvalidArgument(f"signal: {signo!r}: a number from 1 to {_MAX_SIGNAL}, as signal.SIGTERM")
        self.link.check_owner()
        if not self.is_over():
            self.link.ask(requests.SIGNAL, {"exec": self.ident, "signal": signo, "scope": scope})

    def send_input(self, data: bytes, timeout: float | None = None) -> Steps[None]:
        """Write input, waiting while the command does not take it.  Raises SandboxError if it takes no more:
        SandboxEnded if that is why; SandboxTimeout when `timeout` or the time of the command is over.
        """
        self.link.check_owner()
        deadline_s = deadline_of(timeout)
        if self.pending:
            raise SandboxError("the input that run() was given is not taken yet", "wait() for the command")
        rest = memoryview(data)
        while rest:
            changes = self._changes
            self._take_unfollowed()
            if isinstance(self.failure, SandboxEnded):
                raise SandboxEnded(self.failure.problem, self.failure.remedy)
            if self.stdin < 0 or self.is_over():
                raise SandboxError(
                    "the command takes no input", "start it with stdin=True, and write before close_stdin()"
                )
            try:
                rest = rest[self._write_some(rest) :]
            except BlockingIOError:
                yield from self._wait_for_room(changes, deadline_s)
            except OSError:
                self._close_stdin()
                raise SandboxError("the command has closed its input") from None

    def _wait_for_room(self, changes: int, deadline_s: float | None) -> Steps[None]:
        """Until the command may take input, or has changed.  Raises SandboxTimeout."""
        # A follower kills the command when its time is over, and reads how it ended.
        is_followed = self.is_followed
        ends = [] if is_followed or self.deadline_s is None else [self.deadline_s]
        ends += [] if deadline_s is None else [deadline_s]
        if ends and time.monotonic() >= min(ends):
            raise SandboxTimeout("the command does not read its input", "kill() ends it")
        readers, writers = ([], []) if is_followed else ([self.link.fileno()], self.link.wants())
        yield from self._sleep(changes, readers, [self.stdin, *writers], min(ends, default=None))

    def give(self, data: bytes) -> None:
        """Queue input, which is written while output is read."""
        self.pending = memoryview(bytes(self.pending) + data)

    def poll(self) -> bool:
        """Whether the command is known to have ended; does not wait."""
        self._take_unfollowed()
        return self.is_over()

    def close_stdin(self) -> None:
        """The command finds the end of its input; one that has ended needs none.  Raises SandboxError."""
        self.link.check_owner()
        if self.pending:
            self.closes_stdin = True
        else:
            self._close_stdin()

    def resize(self, rows: int, columns: int) -> None:
        """Its terminal has another size.  Raises SandboxError."""
        _check_size(rows, columns)
        self.link.check_owner()
        if not self.is_over():
            self.link.ask(requests.RESIZE, {"exec": self.ident, "rows": rows, "columns": columns})

    def close(self) -> None:
        """End the command, if it has not ended yet, and close the connection.

        The end is requested explicitly, because a process that was forked from this one may still hold the connection
        open; that process requests nothing.
        """
        if not self.link.is_ours():
            self._drop()
            return
        with self._lock:
            if self.is_closed:
                return
            self.is_closed = True
            if self.ident and not self.is_over():
                self.link.cancel(self.ident)
                self.failure = SandboxError("the handle was closed, which ends its command")
            self._drop()
            self._changed()

    def _drop(self) -> None:
        self.pending = memoryview(b"")
        self._drop_stdin()
        for stream in self.streams:
            stream.close()
        self.link.close()

    def __del__(self) -> None:
        if not self.is_closed:
            self.close()


class StillRuns(SandboxTimeout):
    """The wait is over, but the command still runs."""


class Sink:
    """A callback for output; text is cut at characters."""

    def __init__(self, function: OnOutput | None, *, is_text: bool) -> None:
        import codecs

        self.function: OnOutput | None = function
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace") if is_text else None

    def put(self, data: bytes) -> Steps[None]:
        """Pass on a piece."""
        if self.function is not None:
            piece = self.decoder.decode(data) if self.decoder is not None else data
            if piece:
                yield Call(self.function, piece)

    def finish(self) -> Steps[None]:
        """The end."""
        if self.function is not None and self.decoder is not None:
            rest = self.decoder.decode(b"", True)
            if rest:
                yield Call(self.function, rest)


def make_request(
    command: str | Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    envs: Mapping[str, str] | None,
) -> ExecRequest:
    """Without descriptors.  Raises InvalidArgument."""
    request = ExecRequest(argv_of(command))
    request.env = env_items(env, envs)
    if cwd is not None:
        request.cwd = encoded("cwd", cwd)
    return request


def start(
    core: SandboxCore,
    request: ExecRequest,
    *,
    user: int | str | None = None,
    stdin: str | bytes | bool | None = None,
    timeout: float | None = None,
    max_output: int = MAX_OUTPUT,
) -> Steps[Command]:
    """Start a command.  Raises SandboxError; that there is no such program is in its result."""
    check_seconds("timeout", timeout)
    check_count("max_output", max_output)
    given = None if stdin is None or isinstance(stdin, bool) else data_of("stdin", stdin)
    size = sum([len(each) for each in request.argv]) + sum([len(each) for each in request.env])
    if size > requests.MAX_BODY_BYTES:
        limit = requests.MAX_BODY_BYTES >> 20
        raise InvalidArgument(
            f"command: longer than {limit} MiB, with its variables; write a file, or pass stdin"
        )
    if request.cwd:
        request.cwd = os.fsencode(inside(core, request.cwd, "cwd"))
    request.uid, request.gid, home = yield from resolve_user(core, user)
    if home and not any(item.startswith(b"HOME=") for item in request.env):
        request.env.append(b"HOME=" + os.fsencode(home))
    command = Command(core, core.connect(), max_output)
    try:
        if timeout is not None:
            # the sandbox keeps to it whether or not anybody follows the command
            request.timeout_ms = math.ceil(min(timeout * 1000, requests.MAX_TIMEOUT_MS))
            command.deadline_s = deadline_of(timeout)
        yield from command.start(request, given, has_stdin=given is not None or stdin is True)
    except BaseException:
        command.close()
        raise
    if command.failure is not None:
        command.finish()
    if command.pid:
        _RUNNING[core.root, core.name, command.pid] = command
    return command


def find(core: SandboxCore, pid: int) -> Command:
    """The command of this process that has this pid in the sandbox.  Raises SandboxError."""
    found = _RUNNING.get((core.root, core.name, pid))
    if found is None or not found.link.is_ours():
        raise SandboxError(
            f"no command with pid {pid} was started by this process, or nobody has kept its handle; "
            "commands end with them"
        )
    return found


def run(
    core: SandboxCore,
    words: str | Sequence[str],
    request: ExecRequest,
    *,
    user: int | str | None,
    stdin: str | bytes | None,
    timeout: float | None,
    max_output: int,
    check: bool,
    on_stdout: OnOutput | None,
    on_stderr: OnOutput | None,
    is_text: bool = True,
) -> Steps[CommandResult]:
    """Start a command and wait for its end.  Raises SandboxError, CommandError."""
    check_callable("on_stdout", on_stdout)
    check_callable("on_stderr", on_stderr)
    command = yield from start(core, request, user=user, stdin=stdin, timeout=timeout, max_output=max_output)
    result = yield from command.follow(on_stdout, on_stderr, is_text=is_text)
    if check and not result.ok:
        raise CommandError(result, shown(words))
    return result


def wait_for(
    command: Command,
    *,
    check: bool,
    on_stdout: OnOutput | None,
    on_stderr: OnOutput | None,
    timeout: float | None,
) -> Steps[CommandResult]:
    """The end of a command in the background.  Raises SandboxError, CommandError."""
    result = yield from command.follow(on_stdout, on_stderr, deadline_s=deadline_of(timeout))
    if check and not result.ok:
        raise CommandError(result, f"command {command.pid}")
    return result


def _check_size(rows: int, columns: int) -> None:
    if not all(is_whole(each, 1, 0xFFFF) for each in (rows, columns)):
        raise InvalidArgument(f"rows, columns: {rows}, {columns}: from 1 to 65535")


def give_terminal(request: ExecRequest, rows: int, columns: int) -> None:
    """The command has a terminal.  Raises InvalidArgument."""
    _check_size(rows, columns)
    request.has_terminal = True
    request.rows, request.columns = rows, columns
    if not any(item.startswith(b"TERM=") for item in request.env):
        request.env.append(b"TERM=xterm-256color")
