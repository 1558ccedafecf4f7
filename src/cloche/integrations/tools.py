"""What a model is given to do with a sandbox, as plain functions that answer in text.

`integrations.langchain` and `integrations.pydantic_ai` make tools of them: names, parameters and docstrings are what a
model sees.  What goes wrong inside is an answer, too, so that a model can act on it; a sandbox that does not start is
an exception.
"""

import codecs
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, Final

from cloche.sdk import InvalidArgument, Sandbox, SandboxEnded, SandboxError, StartError
from cloche.sdk.arguments import data_of

TIMEOUT_S: Final = 60.0
SHOWN_CHARACTERS: Final = 30_000  # of output, to a model
MAX_FILE_BYTES: Final = 256 << 20  # of a file that is read to its end
MAX_ENTRIES: Final = 10_000  # of a listing
# What a model can do about it.
NEXT: Final = "the next call finds a new sandbox"
PARTS: Final = "run_command can show parts of it, as by head, tail, sed or xxd"
FEWER: Final = "give a smaller depth, or look by run_command, as with find or head"


def shortened(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """The beginning and the end of what is too long."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"


def bounded(pieces: Iterator[bytes], path: str) -> Generator[bytes, None, None]:
    """The pieces of a file of not more than MAX_FILE_BYTES.  Raises SandboxError."""
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_FILE_BYTES:
            raise SandboxError(f"read {path}: more than {MAX_FILE_BYTES} bytes", PARTS)
        yield piece


def ends_of(pieces: Iterable[bytes]) -> str:
    """As `shortened`, of a text that is read in pieces, of which no more is kept.  Raises UnicodeDecodeError."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    half = SHOWN_CHARACTERS // 2
    first = last = ""
    count = 0
    for piece in itertools.chain(pieces, [b""]):
        text = decoder.decode(piece, not piece)
        count += len(text)
        room = 2 * half - len(first)
        first += text[:room]
        last = (last + text[-half:])[-half:]
    if count <= 2 * half:
        return first
    return f"{first[:half]}\n[… {count - 2 * half} characters left out …]\n{last}"


def listed(found: list[Any]) -> str:
    """Kind, size and path of files, a line each."""
    lines = [f"{each.kind:9} {each.size:>10} {each.path}{'/' if each.is_dir else ''}" for each in found]
    return shortened("\n".join(lines)) or "(empty)"


def told(error: SandboxError, remedy: str = "") -> str:
    """An error as a model is told it, with a remedy of the tools', if any: those of the SDK it does not have."""
    return f"{error.problem}; {remedy}" if remedy and error.remedy else error.problem


class Tools:
    """They share a sandbox: one that is given, or one of `options` (those of `Sandbox.create`), made when first needed.

    Any thread may call them.  `timeout` bounds every command and cell.
    """

    def __init__(self, sandbox: Sandbox | None, timeout: float, options: dict[str, Any]) -> None:
        self.is_ours: bool = sandbox is None
        self.timeout: float = timeout
        self.options: dict[str, Any] = options
        self._sandbox: Sandbox | None = sandbox
        self._lock: threading.Lock = threading.Lock()

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox.  Raises StartError."""
        with self._lock:
            if self._sandbox is None:
                self._sandbox = Sandbox.create(**self.options)
            return self._sandbox

    def close(self) -> None:
        """End the sandbox, unless it was given; the next call makes another."""
        with self._lock:
            found = self._sandbox
            if self.is_ours:
                self._sandbox = None
        if self.is_ours and found is not None:
            found.kill()

    def functions(self) -> list[Callable[..., str]]:
        """All of them."""
        return [self.run_command, self.run_code, self.read_file, self.write_file, self.list_files]

    def _guarded(self, work: Callable[[Sandbox], str], remedy: str = "") -> str:
        try:
            return work(self.sandbox)
        except StartError:
            raise
        except SandboxError as error:
            if isinstance(error, SandboxEnded) and self.is_ours:
                self.close()
                return f"error: {told(error, NEXT)}"
            return f"error: {told(error, remedy)}"

    def run_command(self, command: str, cwd: str = "", stdin: str = "") -> str:
        """Run a shell command in the sandbox and wait for its end: its output, its errors and its exit status.

        One that takes long is killed. State of the shell does not last from call to call; files do.
        """

        def work(sandbox: Sandbox) -> str:
            done = sandbox.commands.run(
                command, cwd=cwd or None, stdin=stdin or None, timeout=self.timeout, max_output=1 << 20
            )
            parts = [shortened(text) for text in (done.stdout, done.stderr, done.error) if text]
            if done.timed_out:
                parts.append(f"killed: it took longer than {self.timeout:g} s")
            elif not done.ok:
                parts.append(f"exit status {done.exit_code}")
            return "\n".join(parts) or "(no output)"

        return self._guarded(work)

    def run_code(self, code: str, language: str = "python") -> str:
        """Run code ("python", "bash" or "node") in the sandbox; variables last from call to call.

        Answers what it prints, the value of its last expression, and its exception.
        """

        def work(sandbox: Sandbox) -> str:
            done = sandbox.run_code(code, language, timeout=self.timeout)
            parts = [done.logs.stdout, done.logs.stderr]
            parts += [result.text or f"({', '.join(result.formats)})" for result in done.results]
            if done.error is not None:
                parts.append(done.error.traceback or str(done.error))
                if done.timed_out:
                    parts.append(str(done.error))
            return "\n".join([shortened(part.rstrip("\n")) for part in parts if part]) or "(no output)"

        return self._guarded(work)

    def read_file(self, path: str) -> str:
        """Read a text file of the sandbox; of a long one the beginning and the end."""

        def work(sandbox: Sandbox) -> str:
            pieces = bounded(sandbox.files.stream(path), path)
            with closing(pieces):
                try:
                    return ends_of(pieces)
                except UnicodeDecodeError as wrong:
                    raise InvalidArgument(f"read {path}: not UTF-8 text ({wrong.reason})", PARTS) from None

        return self._guarded(work, PARTS)

    def write_file(self, path: str, content: str) -> str:
        """Write a text file of the sandbox; directories above it are made."""

        def work(sandbox: Sandbox) -> str:
            info = sandbox.files.write(path, data_of("content", content))
            return f"{info.path}: {info.size} bytes"

        return self._guarded(work)

    def list_files(self, path: str, depth: int = 1) -> str:
        """List a directory of the sandbox, and with depth those in it: kind, size and path of each."""
        return self._guarded(
            lambda sandbox: listed(sandbox.files.list(path, depth=depth, max_entries=MAX_ENTRIES)), FEWER
        )
