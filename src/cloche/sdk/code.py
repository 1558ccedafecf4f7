"""Code that keeps its state, as both fronts run it: a context is an interpreter in the sandbox, with a driver.

The driver (`sdk/drivers/`, a program in the context's own language) reads cells from its standard input: a length on a
line, then as many bytes. What a cell prints comes on the standard streams unchanged. Between it the driver writes
marks:

    0x1E TOKEN ":result:" LENGTH "\\n" JSON      on standard output: {"is_main", "formats": {MIME type: text}}
    0x1E TOKEN ":ready:0\\n"                    on standard output: it can be interrupted from now on
    0x1E TOKEN ":end:" LENGTH "\\n" JSON         on both, at the end of a cell: {"error"}; bash: its status

The token, a random text, keeps ordinary output from being taken for a mark. A program that wants to can forge marks,
but lies only about its own results: lengths are limited, and so is what is kept.
"""

import base64
import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final
from uuid import uuid4

from cloche.sdk import commands
from cloche.sdk.arguments import check_callable, check_seconds
from cloche.sdk.commands import MAX_OUTPUT, STDERR, STDOUT, Command, Sink
from cloche.sdk.core import SandboxCore
from cloche.sdk.effects import Call, Steps, deadline_of
from cloche.sdk.errors import CodeError, InvalidArgument, SandboxTimeout
from cloche.sdk.link import KILL, PATIENCE_S
from cloche.wire import requests

TIMEOUT_S: Final = 60.0
_PROGRAMS: Final = {
    "python": (["python3", "-c"], "driver.py"),
    "bash": (["bash", "--norc", "-c"], "driver.sh"),
    "node": (["node", "-e"], "driver.js"),
}
_ALIASES: Final = {
    "python3": "python",
    "py": "python",
    "sh": "bash",
    "shell": "bash",
    "javascript": "node",
    "js": "node",
}
_MAX_PAYLOAD: Final = 64 << 20
_MAX_RESULTS: Final = 1000
# For a cell that was interrupted, in looks: on a machine that stood still the clock proves nothing.
_GRACE: Final = 5
_LOOK_S: Final = 1.0
_HEAD_BYTES: Final = 24  # of a mark, after the token: ":result:" and a length


@dataclass(frozen=True)
class Result:
    """A value that a cell has given, as one or more texts by MIME type. Pictures are Base64 text."""

    formats: dict[str, str]
    is_main: bool = False  # the value of the cell's last expression

    @property
    def text(self) -> str | None:
        """As plain text."""
        return self.formats.get("text/plain")

    @property
    def html(self) -> str | None:
        """As HTML, if the value has that form (tables do)."""
        return self.formats.get("text/html")

    @property
    def markdown(self) -> str | None:
        """As Markdown."""
        return self.formats.get("text/markdown")

    @property
    def png(self) -> str | None:
        """As a PNG picture in Base64, if the value has that form (figures do)."""
        return self.formats.get("image/png")

    @property
    def png_bytes(self) -> bytes | None:
        """As a PNG picture, decoded; None, too, if the program inside has given what is not Base64."""
        try:
            return base64.b64decode(self.formats["image/png"]) if "image/png" in self.formats else None
        except ValueError:
            return None

    @property
    def svg(self) -> str | None:
        """As SVG."""
        return self.formats.get("image/svg+xml")

    @property
    def json(self) -> Any:
        """As decoded JSON; None if the value has no such form, or the program inside has given what is no JSON."""
        try:
            return (
                json.loads(self.formats["application/json"]) if "application/json" in self.formats else None
            )
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True)
class CellError:
    """Why a cell failed."""

    name: str  # of the exception; "ExitStatus" of a shell's; "Timeout"; "InterpreterEnded"
    value: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"


@dataclass
class Logs:
    """The output of a cell."""

    stdout: str = ""
    stderr: str = ""


@dataclass
class Execution:
    """The outcome of a cell."""

    results: list[Result] = field(default_factory=list)
    logs: Logs = field(default_factory=Logs)
    error: CellError | None = None
    timed_out: bool = False
    truncated: bool = False  # more was printed, or shown, than is kept
    duration: float = 0.0  # seconds

    @property
    def text(self) -> str | None:
        """The value of the last expression as text."""
        for result in self.results:
            if result.is_main:
                return result.text
        return None

    @property
    def ok(self) -> bool:
        """Whether the cell has ended without an error."""
        return self.error is None


class Scanner:
    """Splits a stream into what was printed and marks."""

    def __init__(self, token: str) -> None:
        self.mark: bytes = b"\x1e" + token.encode() + b":"
        self.buffer: bytearray = bytearray()

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """("", text) for what was printed, (kind, payload) for marks."""
        self.buffer += data
        buffer, found = self.buffer, []
        while buffer:
            at = buffer.find(self.mark)
            if at < 0:
                at = buffer.rfind(b"\x1e", max(len(buffer) - len(self.mark), 0))
                is_part = at >= 0 and self.mark.startswith(bytes(buffer[at:]))
                end = at if is_part else len(buffer)
                if end:
                    found.append(("", bytes(buffer[:end])))
                    del buffer[:end]
                return found
            if at:
                found.append(("", bytes(buffer[:at])))
                del buffer[:at]
            head_end = buffer.find(b"\n", len(self.mark), len(self.mark) + _HEAD_BYTES)
            if head_end < 0 and len(buffer) < len(self.mark) + _HEAD_BYTES:
                return found
            kind, _colon, length = bytes(buffer[len(self.mark) : max(head_end, 0)]).partition(b":")
            if head_end < 0 or not length.isdigit() or int(length) > _MAX_PAYLOAD:
                found.append(("", bytes(buffer[:1])))  # not a mark: the program printed 0x1E itself
                del buffer[:1]
                continue
            end = head_end + 1 + int(length)
            if len(buffer) < end:
                return found
            found.append((kind.decode(errors="replace"), bytes(buffer[head_end + 1 : end])))
            del buffer[:end]
        return found


class Listener:
    """The callbacks of one cell, and what is kept of what it prints."""

    def __init__(
        self,
        on_stdout: Callable[[Any], object] | None,
        on_stderr: Callable[[Any], object] | None,
        on_result: Callable[[Any], object] | None,
    ) -> None:
        for what, function in (("on_stdout", on_stdout), ("on_stderr", on_stderr), ("on_result", on_result)):
            check_callable(what, function)
        self.sinks: dict[str, Sink] = {
            STDOUT: Sink(on_stdout, is_text=True),
            STDERR: Sink(on_stderr, is_text=True),
        }
        self.kept: dict[str, bytearray] = {STDOUT: bytearray(), STDERR: bytearray()}
        self.on_result: Callable[[Any], object] | None = on_result
        self.execution: Execution = Execution()
        self.result_bytes: int = 0

    def printed(self, stream: str, data: bytes) -> Steps[None]:
        """A piece of output."""
        kept = self.kept[stream]
        room = MAX_OUTPUT - len(kept)
        if len(data) > room:
            self.execution.truncated = True
        kept += data[:room]
        yield from self.sinks[stream].put(data)

    def result(self, payload: bytes) -> Steps[None]:
        """A value."""
        fields = _json(payload)
        formats = fields.get("formats")
        if not isinstance(formats, dict):
            return
        self.result_bytes += len(payload)
        if len(self.execution.results) >= _MAX_RESULTS or self.result_bytes > _MAX_PAYLOAD:
            self.execution.truncated = True
            return
        kept = {str(mime): text for mime, text in formats.items() if isinstance(text, str)}
        result = Result(kept, fields.get("is_main") is True)
        self.execution.results.append(result)
        if self.on_result is not None:
            yield Call(self.on_result, result)

    def finish(self) -> Steps[None]:
        """The cell has ended."""
        for sink in self.sinks.values():
            yield from sink.finish()
        logs = self.execution.logs
        logs.stdout = self.kept[STDOUT].decode(errors="replace")
        logs.stderr = self.kept[STDERR].decode(errors="replace")


def _json(payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def language_of(text: str) -> str:
    """Raises InvalidArgument."""
    name = _ALIASES.get(str(text).lower(), str(text).lower())
    if name not in _PROGRAMS:
        raise InvalidArgument(f"language: {text!r}: one of {', '.join(_PROGRAMS)}")
    return name


class Context:
    """An interpreter that runs in the sandbox."""

    def __init__(self, core: SandboxCore, language: str, command: Command, token: str) -> None:
        self.core: SandboxCore = core
        self.language: str = language
        self.command: Command = command
        self.scanners: dict[str, Scanner] = {STDOUT: Scanner(token), STDERR: Scanner(token)}

    def is_alive(self) -> bool:
        """Whether it can run cells."""
        return self.command.link.is_ours() and not self.command.poll()

    def await_ready(self) -> Steps[None]:
        """Wait until the interpreter can be interrupted without harm. Raises CodeError, SandboxError."""
        deadline_s = deadline_of(PATIENCE_S)
        told: list[bytes] = []
        while True:
            found = yield from self.command.next_output(deadline_s)
            if found is None:
                result = self.command.finish()
                error = result.error or b"".join(told).decode(errors="replace").strip()[-500:]
                raise CodeError(f"no {self.language} in the sandbox: {error}", "use a rootfs that has it")
            if not found:
                raise SandboxTimeout(f"{self.language} did not start in {PATIENCE_S:g} s", KILL)
            for piece in found:
                for kind, payload in self.scanners[piece.stream].feed(piece.data):
                    if kind == "ready":
                        return
                    told.append(payload)

    def interrupt(self) -> None:
        """Interrupt the code that runs, as Ctrl-C does."""
        self.command.send_signal(signal.SIGINT, requests.FOREGROUND)

    def close(self) -> None:
        """End the interpreter."""
        self.command.close()

    def run(self, text: str, timeout: float | None, listener: Listener) -> Steps[Execution]:
        """Run a cell.  Raises CodeError, SandboxError."""
        check_seconds("timeout", timeout)
        if not isinstance(text, str):
            raise InvalidArgument(f"code: {type(text).__name__}: text")
        command = self.command
        command.link.check_owner()
        if command.is_followed:
            raise CodeError(
                "this interpreter runs a cell already; wait for its end",
                "or use create_code_context() for another",
            )
        if not self.is_alive():
            raise CodeError("the interpreter has ended", "use create_code_context() for another")
        command.begin_following()
        try:
            return (yield from self._run(text, timeout, listener))
        except BaseException:
            self.close()  # the cell was only half run: its state is of no use to later cells
            raise
        finally:
            command.end_following()

    def _run(self, text: str, timeout: float | None, listener: Listener) -> Steps[Execution]:
        execution, command = listener.execution, self.command
        began_s = time.monotonic()
        deadline_s = deadline_of(timeout)
        data = text.encode("utf-8", "replace")
        command.give(b"%d\n%s" % (len(data), data))
        ended: set[str] = set()
        looks = 0  # that are left after an interrupt
        while len(ended) < 2:
            found = yield from command.next_output(deadline_s)
            if found is None:
                yield from self._died(listener)
                break
            if not found:
                if looks > 1:
                    looks -= 1
                    deadline_s = time.monotonic() + _LOOK_S
                    continue
                if execution.timed_out:
                    execution.error = CellError(
                        "Timeout",
                        f"longer than {timeout:g} s, and no interrupt ended it: the interpreter has ended",
                    )
                    self.close()
                    break
                execution.timed_out = True
                looks = _GRACE
                deadline_s = time.monotonic() + _LOOK_S
                self.interrupt()
            for piece in found:
                for kind, payload in self.scanners[piece.stream].feed(piece.data):
                    if not kind:
                        yield from listener.printed(piece.stream, payload)
                    elif kind == "end":
                        ended.add(piece.stream)
                        if piece.stream == STDOUT:
                            execution.error = self._error(payload)
                    elif kind == "result" and piece.stream == STDOUT:
                        yield from listener.result(payload)
        if execution.timed_out and (execution.error is None or execution.error.name != "Timeout"):
            trace = execution.error.traceback if execution.error is not None else ""
            execution.error = CellError("Timeout", f"longer than {timeout:g} s; it was interrupted", trace)
        yield from listener.finish()
        execution.duration = time.monotonic() - began_s
        return execution

    def _error(self, payload: bytes) -> CellError | None:
        if self.language == "bash":
            status = payload.decode(errors="replace")
            return None if status == "0" else CellError("ExitStatus", status)
        fields = _json(payload).get("error")
        if not isinstance(fields, dict):
            return None
        return CellError(*[str(fields.get(name, "")) for name in ("name", "value", "traceback")])

    def _died(self, listener: Listener) -> Steps[None]:
        """The interpreter is gone.  Raises SandboxError if the sandbox is."""
        for stream, scanner in self.scanners.items():
            if scanner.buffer:
                yield from listener.printed(stream, bytes(scanner.buffer))
        result = self.command.finish()
        why = result.error or f"status {result.exit_code}"
        listener.execution.error = CellError("InterpreterEnded", f"{why}; its state is lost")


def start(
    core: SandboxCore,
    language: str,
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    user: int | str | None,
) -> Steps[Context]:
    """A new context.  Raises CodeError, SandboxError."""
    name = language_of(language)
    words, driver = _PROGRAMS[name]
    text = resources.files("cloche.sdk").joinpath("drivers", driver).read_text(encoding="utf-8")
    token = uuid4().hex
    extra = ["cloche", token] if name == "bash" else [token]
    request = commands.make_request([*words, text, *extra], cwd=cwd, env=env, envs=None)
    command = yield from commands.start(core, request, user=user, stdin=True)
    context = Context(core, name, command, token)
    try:
        yield from context.await_ready()
    except BaseException:
        context.close()
        raise
    return context


class Contexts:
    """The default contexts of one sandbox object: one for each language, made when it is first needed."""

    def __init__(self, core: SandboxCore) -> None:
        self.core: SandboxCore = core
        self.by_language: dict[str, Context] = {}

    def get(self, language: str) -> Steps[Context]:
        """Return the context of a language, a new one if there is none that can run cells."""
        name = language_of(language)
        found = self.by_language.get(name)
        if found is None or not found.is_alive():
            made = yield from start(self.core, name, cwd=None, env=None, user=None)
            found = self.by_language.get(name)
            if found is not None and found.is_alive():
                made.close()  # another caller was faster: the state of the cells that follow is kept there
            else:
                found = self.by_language[name] = made
        return found

    def close(self) -> None:
        """End all of them."""
        for context in self.by_language.values():
            context.close()
        self.by_language.clear()


def run_code(
    contexts: Contexts,
    text: str,
    language: str,
    context: Context | None,
    timeout: float | None,
    listener: Listener,
) -> Steps[Execution]:
    """Run a cell.  Raises CodeError, SandboxError."""
    chosen = context if context is not None else (yield from contexts.get(language))
    return (yield from chosen.run(text, timeout, listener))
