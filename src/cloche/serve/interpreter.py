"""The code interpreter of a sandbox: contexts, and cells whose output is a line of JSON each."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

from cloche.sdk.aio import AsyncCodeContext, AsyncSandbox
from cloche.sdk.code import Result
from cloche.sdk.errors import InvalidArgument, SandboxError

_LANGUAGES: Final = {"python": "python", "javascript": "node", "js": "node", "bash": "bash"}
_FORMATS: Final[dict[str, str]] = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/javascript": "javascript",
}
_MAX_CONTEXTS: Final = 64
_GRACE_S: Final = 10.0  # for an interrupted cell to end; after that its context is ended


class Named:
    """A context that clients know by its id."""

    def __init__(self, context: AsyncCodeContext, language: str, cwd: str) -> None:
        self.context: AsyncCodeContext = context
        self.language: str = language
        self.cwd: str = cwd
        self.count: int = 0  # of cells
        self.lock: asyncio.Lock = asyncio.Lock()
        self.is_dead: bool = False  # its interpreter has ended
        self.tasks: set[asyncio.Task[None]] = set()
        self.running: asyncio.Task[Any] | None = None


class Interpreter:
    """The contexts of a sandbox."""

    def __init__(self, sandbox: AsyncSandbox, cwd: str) -> None:
        self.sandbox: AsyncSandbox = sandbox
        self.cwd: str = cwd
        self.contexts: dict[str, Named] = {}
        self.defaults: dict[str, str] = {}
        self.lock: asyncio.Lock = asyncio.Lock()

    async def create(self, language: str, cwd: str | None) -> str:
        """Make a context; returns its id. Raises SandboxError."""
        known = _LANGUAGES.get(language.lower())
        if known is None:
            raise InvalidArgument(f"language: {language[:64]!r}: one of {', '.join(_LANGUAGES)}")
        if len(self.contexts) >= _MAX_CONTEXTS:
            raise InvalidArgument(f"at most {_MAX_CONTEXTS} contexts of a sandbox")
        context = await self.sandbox.create_code_context(known, cwd=cwd)
        ident = str(uuid4())
        self.contexts[ident] = Named(context, language.lower(), cwd or self.cwd)
        return ident

    async def default(self, language: str) -> str:
        """The id of the context of a language that is used without a name.  Raises SandboxError."""
        async with self.lock:
            ident = self.defaults.get(language.lower(), "")
            if ident not in self.contexts or self.contexts[ident].is_dead:
                self.contexts.pop(ident, None)
                ident = self.defaults[language.lower()] = await self.create(language, None)
            return ident

    async def restart(self, ident: str) -> None:
        """Replace the context's interpreter by a new one. Raises KeyError, SandboxError."""
        old = self.contexts[ident]
        made = await self.sandbox.create_code_context(_LANGUAGES[old.language], cwd=old.cwd or None)
        old.context.close()
        self.contexts[ident] = Named(made, old.language, old.cwd)

    def remove(self, ident: str) -> None:
        """Raises KeyError."""
        self.contexts.pop(ident).context.close()

    def listing(self) -> list[dict[str, str]]:
        """The JSON of all contexts."""
        return [self.fields(ident) for ident in self.contexts]

    def fields(self, ident: str) -> dict[str, str]:
        """The JSON of one context."""
        named = self.contexts[ident]
        return {"id": ident, "language": named.language, "cwd": named.cwd}

    async def execute(self, ident: str, code: str, envs: dict[str, str]) -> AsyncIterator[bytes]:
        """Run a cell, and yield its output in lines of JSON. A client that disconnects interrupts the cell. Raises
        SandboxError.
        """
        named = self.contexts[ident]
        lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(10_000)
        is_gone = False

        async def put(line: dict[str, Any] | None) -> None:
            if not is_gone:
                await lines.put(line)

        async def output(kind: str, text: str) -> None:
            await put({"type": kind, "text": text, "timestamp": time.time_ns() // 1000})

        async def stdout(text: str) -> None:
            await output("stdout", text)

        async def stderr(text: str) -> None:
            await output("stderr", text)

        async def result(found: Result) -> None:
            await put(_result(found))

        async def cell() -> None:
            try:
                async with named.lock:
                    named.running = asyncio.current_task()
                    named.count += 1
                    count = named.count
                    if envs:
                        await self.sandbox.run_code(
                            _setter(named.language, envs), _LANGUAGES[named.language], context=named.context
                        )
                    done = await self.sandbox.run_code(
                        code,
                        _LANGUAGES[named.language],
                        context=named.context,
                        timeout=None,
                        on_stdout=stdout,
                        on_stderr=stderr,
                        on_result=result,
                    )
                if done.error is not None:
                    error = done.error
                    trace = error.traceback or f"{error.name}: {error.value}"
                    named.is_dead = error.name == "InterpreterEnded"
                    await put({"type": "error", "name": error.name, "value": error.value, "traceback": trace})
                await put({"type": "number_of_executions", "execution_count": count})
            except asyncio.CancelledError:
                named.is_dead = named.is_dead or named.running is asyncio.current_task()
                raise
            except SandboxError as error:
                named.is_dead = True
                await put(
                    {
                        "type": "error",
                        "name": type(error).__name__,
                        "value": str(error),
                        "traceback": str(error),
                    }
                )
            finally:
                await put(None)

        task = asyncio.create_task(cell())
        named.tasks.add(task)
        task.add_done_callback(named.tasks.discard)
        try:
            while (line := await lines.get()) is not None:
                yield json.dumps(line).encode() + b"\n"
        finally:
            is_gone = True
            if not task.done():
                while not lines.empty():  # so that a cell that waits for room in the queue goes on
                    lines.get_nowait()
                if named.running is task:
                    named.context.interrupt()
                asyncio.get_running_loop().call_later(_GRACE_S, task.cancel)

    def close(self) -> None:
        """End all contexts."""
        for named in self.contexts.values():
            named.context.close()
        self.contexts.clear()


def _result(found: Result) -> dict[str, Any]:
    """A result as E2B's `Result` takes it."""
    line: dict[str, Any] = {"type": "result", "is_main_result": found.is_main}
    extra = {}
    for mime, text in found.formats.items():
        if mime == "application/json":
            line["json"] = found.json
        elif mime in _FORMATS:
            line[_FORMATS[mime]] = text
        else:
            extra[mime] = text
    if extra:
        line["extra"] = extra
    return line


def _setter(language: str, envs: dict[str, str]) -> str:
    """A cell that sets environment variables, in the language itself."""
    if language == "python":
        return f"import os as _os; _os.environ.update({envs!r}); del _os"
    if language == "bash":
        return "".join(
            f"export {name}={_quoted(value)}\n" for name, value in envs.items() if name.isidentifier()
        )
    return f"void Object.assign(process.env, {json.dumps(envs)});"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
