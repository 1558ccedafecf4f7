"""`cloche mcp`: a sandbox as tools of the Model Context Protocol, on the official SDK (package `mcp`, 2.0 or later).

A server has one sandbox, made when the first tool needs it, and a further one if that has ended. Results for the
model are short: long output is cut to its beginning and its end. A call that the client cancels ends what it has
started.
"""

import asyncio
import codecs
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ToolError

from cloche import __version__
from cloche.integrations.tools import (
    FEWER,
    MAX_ENTRIES,
    NEXT,
    PARTS,
    SHOWN_CHARACTERS,
    listed,
    shortened,
    told,
)
from cloche.sdk import (
    AsyncCommandHandle,
    AsyncSandbox,
    Result,
    SandboxEnded,
    SandboxError,
    SandboxTimeout,
)
from cloche.sdk.arguments import data_of

JOB_CHARACTERS: Final = 1 << 20  # of a job's latest output that are kept
MAX_JOBS: Final = 32
MAX_RESULTS: Final = 50  # of a cell, to a model
MAX_PICTURE_BYTES: Final = 2 << 20  # of all pictures of a cell; Base64 makes a third more of them
MAX_OFFSET: Final = 256 << 20  # of a file that is read: all before it is read, too, and dropped
MAX_LIMIT: Final = 1 << 20  # characters
MAX_SECONDS: Final = 3600.0
_PROGRESS_S: Final = 0.5

INSTRUCTIONS: Final = """\
Tools to run untrusted programs and code in a sandbox: a Linux of its own, whose files and processes are apart from the
user's machine.  State lasts from call to call: files, variables of run_code, jobs.  The sandbox may have no network.
"""


class Job:
    """A command in the background, and its latest output."""

    def __init__(self, command: str, handle: AsyncCommandHandle) -> None:
        self.command: str = command
        self.handle: AsyncCommandHandle = handle
        self.text: str = ""
        self.has_dropped: bool = False
        self.status: int | None = None
        self.error: str = ""
        self.news: asyncio.Event = asyncio.Event()
        self.task: asyncio.Task[None] = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        try:
            async for piece in self.handle:
                self.text += piece.text
                if len(self.text) > JOB_CHARACTERS:
                    self.text = self.text[-JOB_CHARACTERS // 2 :]
                    self.has_dropped = True
                self.news.set()
            result = await self.handle.wait()
            self.status, self.error = result.exit_code, result.error
        except SandboxError as error:
            self.status, self.error = -1, told(error)
        finally:
            self.news.set()

    def report(self) -> dict[str, Any]:
        """The output since the last report."""
        text, self.text = self.text, ""
        dropped, self.has_dropped = self.has_dropped, False
        self.news.clear()
        if self.status is not None:
            self.news.set()
        found: dict[str, Any] = {
            "command": self.command,
            "is_running": self.status is None,
            "exit_code": self.status,
            "output": shortened(text),
        }
        if dropped:
            found["note"] = "older output was dropped"
        if self.error:
            found["error"] = self.error
        return found


class Box:
    """The sandbox of a server."""

    def __init__(self, options: Sequence[str], root: str) -> None:
        self.options: list[str] = list(options)
        self.root: str = root
        self.lock: asyncio.Lock = asyncio.Lock()
        self.sandbox: AsyncSandbox | None = None
        self.jobs: dict[str, Job] = {}
        self.next_job: int = 1

    async def get(self) -> AsyncSandbox:
        """The running sandbox, made if there is none. Raises ToolError."""
        async with self.lock:
            if self.sandbox is not None and not await self.sandbox.is_running():
                await self._close()
            if self.sandbox is None:
                try:
                    self.sandbox = await AsyncSandbox.create(
                        options=self.options, root=self.root, metadata={"made-by": "cloche mcp"}
                    )
                except SandboxError as error:
                    raise ToolError(told(error)) from None
            return self.sandbox

    async def _close(self) -> None:
        jobs, self.jobs = self.jobs, {}
        for job in jobs.values():
            job.task.cancel()
        sandbox, self.sandbox = self.sandbox, None
        if sandbox is not None:
            await sandbox.kill()

    async def close(self) -> None:
        """End it."""
        async with self.lock:
            await self._close()

    def job(self, name: str) -> Job:
        """Raises ToolError."""
        found = self.jobs.get(name)
        if found is None:
            raise ToolError(f"there is no job {name}; those that there are: {', '.join(self.jobs) or 'none'}")
        return found


def failure(error: SandboxError, remedy: str = "") -> ToolError:
    """The error for the model, with a remedy that it has."""
    if isinstance(error, SandboxEnded):
        remedy = NEXT
    elif isinstance(error, SandboxTimeout):
        remedy = "reset ends the sandbox"
    return ToolError(told(error, remedy))


def seconds(timeout: float) -> float:
    """Raises ToolError."""
    if not 0 < timeout <= MAX_SECONDS:
        raise ToolError(f"timeout: {timeout}: more than 0 and at most {MAX_SECONDS:g} seconds")
    return timeout


class Progress:
    """Reports to the client, at intervals, how much output has come, and its last line."""

    def __init__(self, context: Context) -> None:
        self.context: Context = context
        self.count: int = 0
        self.told_s: float = 0.0

    async def __call__(self, text: str) -> None:
        self.count += len(text)
        now = asyncio.get_running_loop().time()
        if now - self.told_s >= _PROGRESS_S:
            self.told_s = now
            lines = text.strip().splitlines()
            await self.context.report_progress(self.count, None, lines[-1][:200] if lines else None)


def shown_results(results: Sequence[Result]) -> list[str | Image]:
    """The first results, as many as a model can take, and the last, which is the value of the last expression if there
    is one. The program inside has chosen what they hold, and how many there are.
    """
    parts: list[str | Image] = []
    size = left_out = picture_bytes = 0
    for result in results:
        if result is not results[-1] and (len(parts) >= MAX_RESULTS or size >= SHOWN_CHARACTERS):
            left_out += 1
            continue
        if left_out:
            parts.append(f"[… {left_out} results were left out]")
        if result.png is not None:
            picture = result.png_bytes
            if picture is None:
                parts.append("[a picture that cannot be decoded]")
            elif picture_bytes + len(picture) > MAX_PICTURE_BYTES:
                limit = f"{MAX_PICTURE_BYTES >> 20} MiB"
                parts.append(
                    f"[a picture of {len(picture)} bytes was left out: of the pictures of a call {limit} are shown;"
                    " draw it smaller, or save it to a file]"
                )
            else:
                picture_bytes += len(picture)
                parts.append(Image(data=picture, format="png"))
        elif result.text is not None:
            parts.append(shortened(result.text))
            size += min(len(result.text), SHOWN_CHARACTERS)
    return parts


async def part_of(pieces: AsyncIterator[bytes], offset: int, limit: int) -> tuple[str, bool]:
    """At most `limit` characters of a text from `offset` on, and whether there are more: no more is read, and what is
    before is not kept.  Raises UnicodeDecodeError, SandboxError.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    found = ""
    async for piece in pieces:
        while piece:
            count = offset + limit + 1 - len(found)  # bytes, at least one a character
            text, piece = decoder.decode(piece[:count]), piece[count:]
            found += text[offset:]
            offset = max(offset - len(text), 0)
            if len(found) > limit:
                return found[:limit], True
    decoder.decode(b"", True)
    return found, False


def make_server(options: Sequence[str] = (), root: str = "") -> MCPServer:
    """A server; `options` are those of `cloche run`."""
    box = Box(options, root)

    @asynccontextmanager
    async def lifespan(_server: MCPServer) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await box.close()

    server = MCPServer(
        "cloche", instructions=INSTRUCTIONS, version=__version__, lifespan=lifespan, log_level="WARNING"
    )

    @server.tool()
    async def run_command(
        command: str, context: Context, timeout: float = 60, cwd: str = "", stdin: str = ""
    ) -> dict[str, Any]:
        """Run a shell command in the sandbox and wait for its end.

        After `timeout` seconds it is killed.  Use start_job for what shall go on.
        """
        sandbox = await box.get()
        progress = Progress(context)
        try:
            result = await sandbox.commands.run(
                command,
                timeout=seconds(timeout),
                cwd=cwd or None,
                stdin=stdin or None,
                on_stdout=progress,
                on_stderr=progress,
            )
        except SandboxError as error:
            raise failure(error) from None
        found: dict[str, Any] = {
            "exit_code": result.exit_code,
            "stdout": shortened(result.stdout),
            "stderr": shortened(result.stderr),
        }
        if result.timed_out:
            found["timed_out"] = True
        if result.error:
            found["error"] = result.error
        return found

    @server.tool(structured_output=False)
    async def run_code(
        code: str, context: Context, language: str = "python", timeout: float = 60
    ) -> list[str | Image]:
        """Run code ("python", "bash" or "node") in the sandbox; variables last from call to call.

        Shows what it prints, the value of its last expression, pictures (matplotlib, display()), and errors.
        """
        sandbox = await box.get()
        progress = Progress(context)
        try:
            execution = await sandbox.run_code(
                code, language, timeout=seconds(timeout), on_stdout=progress, on_stderr=progress
            )
        except SandboxError as error:
            raise failure(error) from None
        parts: list[str | Image] = []
        for text in (execution.logs.stdout, execution.logs.stderr):
            if text:
                parts.append(shortened(text))
        parts += shown_results(execution.results)
        if execution.error is not None:
            parts.append(shortened(execution.error.traceback or str(execution.error)))
            if execution.timed_out:
                parts.append(str(execution.error))
        return parts or ["(no output)"]

    @server.tool(structured_output=False)
    async def read_file(path: str, offset: int = 0, limit: int = SHOWN_CHARACTERS) -> str:
        """Read a text file of the sandbox, at most `limit` characters from `offset` on."""
        sandbox = await box.get()
        if not 0 <= offset <= MAX_OFFSET or not 0 < limit <= MAX_LIMIT:
            raise ToolError(f"offset: up to {MAX_OFFSET}, limit: from 1 to {MAX_LIMIT} characters; {PARTS}")
        try:
            async with aclosing(sandbox.files.stream(path)) as pieces:
                text, goes_on = await part_of(pieces, offset, limit)
        except SandboxError as error:
            raise failure(error, PARTS) from None
        except UnicodeDecodeError as wrong:
            raise ToolError(f"read {path}: not UTF-8 text ({wrong.reason}); {PARTS}") from None
        return text + (f"\n[… it goes on at offset {offset + limit}]" if goes_on else "")

    @server.tool(structured_output=False)
    async def write_file(path: str, content: str) -> str:
        """Write a text file of the sandbox; directories above it are made."""
        sandbox = await box.get()
        try:
            info = await sandbox.files.write(path, data_of("content", content))
        except SandboxError as error:
            raise failure(error) from None
        return f"{info.path}: {info.size} bytes"

    @server.tool(structured_output=False)
    async def list_files(path: str, depth: int = 1) -> str:
        """List a directory of the sandbox, and with `depth` those in it: kind, size and path of each."""
        sandbox = await box.get()
        try:
            found = await sandbox.files.list(path, depth=depth, max_entries=MAX_ENTRIES)
        except SandboxError as error:
            raise failure(error, FEWER) from None
        return listed(found)

    @server.tool()
    async def start_job(command: str, cwd: str = "") -> dict[str, Any]:
        """Start a shell command in the sandbox that goes on in the background, as a server does."""
        sandbox = await box.get()
        running = [job for job in box.jobs.values() if job.status is None]
        if len(running) >= MAX_JOBS:
            raise ToolError(f"{MAX_JOBS} jobs run already; stop_job ends one")
        try:
            handle = await sandbox.commands.run(command, background=True, cwd=cwd or None)
        except SandboxError as error:
            raise failure(error) from None
        name = str(box.next_job)
        box.next_job += 1
        box.jobs[name] = Job(command, handle)
        return {"job": name, "pid": handle.pid}

    @server.tool()
    async def job_output(job: str, wait_seconds: float = 0) -> dict[str, Any]:
        """What a job has written since the last look, and whether it runs; waits for news if asked to."""
        found = box.job(job)
        if wait_seconds > 0 and not found.text and found.status is None:
            try:
                await asyncio.wait_for(found.news.wait(), min(wait_seconds, MAX_SECONDS))
            except TimeoutError:
                pass
        return found.report()

    @server.tool()
    async def stop_job(job: str) -> dict[str, Any]:
        """Kill a job, and give its last output."""
        found = box.job(job)
        found.handle.kill()
        try:
            await asyncio.wait_for(asyncio.shield(found.task), 30)
        except TimeoutError:
            raise ToolError("the job does not end; reset ends the sandbox") from None
        del box.jobs[job]
        return found.report()

    @server.tool(structured_output=False)
    async def reset() -> str:
        """End the sandbox with everything in it; the next call finds a new one."""
        await box.close()
        return "the sandbox has ended"

    @server.resource(
        "sandbox://{+path}", name="file", description="a file of the sandbox", mime_type="text/plain"
    )
    async def file(path: str) -> str | bytes:
        sandbox = await box.get()
        try:
            data = await sandbox.files.read("/" + path.lstrip("/"), format="bytes", max_bytes=8 << 20)
        except SandboxError as error:
            raise ResourceError(told(error)) from None
        text = data.decode(errors="replace")
        return text if not re.search("[\0\ufffd]", text) else data

    return server


def serve(options: Sequence[str], root: str) -> None:
    """Serve on standard input and output until the client ends it."""
    make_server(options, root).run("stdio")
