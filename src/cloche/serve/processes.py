"""Processes of a sandbox as clients of E2B see them: one request starts a process, others follow its output and write
its input.
"""

import asyncio
import base64
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

from cloche.sdk.aio import AsyncCommandHandle, AsyncPtyHandle, AsyncSandbox
from cloche.sdk.errors import SandboxEnded, SandboxError
from cloche.serve.connect import RpcError

KEEPALIVE_S: Final = 30.0
_MAX_WAITING: Final = 16 << 20  # bytes that may wait for a follower
_SIGNALS: Final = {"SIGNAL_SIGTERM": 15, "SIGNAL_SIGKILL": 9, 15: 15, 9: 9}


class Follower:
    """A request that gets the output of a process."""

    def __init__(self) -> None:
        self.events: deque[dict[str, Any]] = deque()
        self.waiting_bytes: int = 0
        self.changed: asyncio.Event = asyncio.Event()
        self.is_over: bool = False

    def put(self, event: dict[str, Any], size: int = 0) -> None:
        """Queue an event. If too much waits, output is dropped, and an event says so."""
        if self.waiting_bytes + size > _MAX_WAITING:
            self.events.append({"error": "too far behind"})
            self.is_over = True
        else:
            self.waiting_bytes += size
            self.events.append(event)
        self.changed.set()


class Process:
    """A command that runs, and its followers."""

    def __init__(self, handle: AsyncCommandHandle, config: dict[str, Any], tag: str, *, is_pty: bool) -> None:
        self.handle: AsyncCommandHandle = handle
        self.config: dict[str, Any] = config
        self.tag: str = tag
        self.is_pty: bool = is_pty
        self.followers: set[Follower] = set()
        self.task: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        """Read its output until it ends, and pass it to all followers."""
        ended: dict[str, Any]
        try:
            async for piece in self.handle:
                name = "pty" if self.is_pty else piece.stream
                data = {name: base64.b64encode(piece.data).decode()}
                for follower in list(self.followers):
                    if not follower.is_over:
                        follower.put({"data": data}, len(piece.data))
            result = await self.handle.wait()
            status = f"exit status {result.exit_code}"
            ended = {"exitCode": result.exit_code, "exited": True, "status": status}
            if result.error or result.timed_out:
                ended["error"] = result.error or "it ran out of time"
        except SandboxEnded as error:
            ended = {"exitCode": 137, "exited": False, "status": "signal: killed", "error": str(error)}
        except SandboxError as error:
            ended = {"exitCode": 1, "exited": False, "status": "lost", "error": str(error)}
        for follower in list(self.followers):
            follower.put({"end": ended})
            follower.is_over = True


class Processes:
    """The processes of one sandbox that were started by this server."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self.sandbox: AsyncSandbox = sandbox
        self.by_pid: dict[int, Process] = {}

    async def start(self, request: dict[str, Any], user: str | None, timeout: float | None) -> Process:
        """process.Process/Start.  Raises RpcError."""
        config = request.get("process")
        if not isinstance(config, dict) or not isinstance(config.get("cmd"), str) or not config["cmd"]:
            raise RpcError("invalid_argument", "process.cmd: the program is missing")
        args, envs = config.get("args", []), config.get("envs", {})
        words = [config["cmd"], *args] if isinstance(args, list) else []
        if not all(isinstance(word, str) for word in words) or not words:
            raise RpcError("invalid_argument", "process.args: a list of words")
        if not isinstance(envs, dict) or not all(isinstance(value, str) for value in envs.values()):
            raise RpcError("invalid_argument", "process.envs: texts by name")
        cwd = config.get("cwd") or None
        if cwd is not None and not isinstance(cwd, str):
            raise RpcError("invalid_argument", "process.cwd: a path")
        pty = request.get("pty")
        try:
            if isinstance(pty, dict):
                rows, columns = size_of(pty)
                handle: AsyncCommandHandle = await self.sandbox.pty.create(
                    words, rows=rows, columns=columns, timeout=timeout, cwd=cwd, env=envs, user=user
                )
            else:
                has_stdin = request.get("stdin", True) is not False
                handle = await self.sandbox.commands.run(
                    words, background=True, timeout=timeout, cwd=cwd, env=envs, user=user, stdin=has_stdin
                )
        except SandboxError as error:
            raise as_rpc(error) from None
        if not handle.pid:
            result = await handle.wait()
            raise RpcError("invalid_argument", result.error or "it did not start")
        made = Process(handle, config, str(request.get("tag") or ""), is_pty=isinstance(pty, dict))
        self.by_pid[handle.pid] = made
        return made

    def begin(self, process: Process) -> None:
        """Begin to read its output."""
        process.task = asyncio.create_task(self._follow(process))

    async def _follow(self, process: Process) -> None:
        try:
            await process.follow()
        finally:
            self.by_pid.pop(process.handle.pid, None)

    def find(self, request: dict[str, Any]) -> Process:
        """The one that a selector names.  Raises RpcError."""
        selector = request.get("process")
        if isinstance(selector, dict):
            for process in self.by_pid.values():
                if process.handle.pid == selector.get("pid") or (
                    process.tag and process.tag == selector.get("tag")
                ):
                    return process
        raise RpcError(
            "not_found",
            f"no process {selector if isinstance(selector, dict) else ''} was started here and runs",
        )

    def listing(self) -> dict[str, Any]:
        """process.Process/List."""
        rows = []
        for process in self.by_pid.values():
            row: dict[str, Any] = {"config": process.config, "pid": process.handle.pid}
            if process.tag:
                row["tag"] = process.tag
            rows.append(row)
        return {"processes": rows}

    async def events(self, process: Process, follower: Follower) -> AsyncIterator[dict[str, Any]]:
        """Yield the events for a follower: the start, output, the end. Raises RpcError."""
        try:
            yield {"event": {"start": {"pid": process.handle.pid}}}
            while True:
                while follower.events:
                    event = follower.events.popleft()
                    if "error" in event:
                        raise RpcError(
                            "resource_exhausted", "the output was not taken: its follower is cut off"
                        )
                    for data in event.get("data", {}).values():
                        follower.waiting_bytes -= len(data) * 3 // 4
                    yield {"event": event}
                    if "end" in event:
                        return
                follower.changed.clear()
                try:
                    async with asyncio.timeout(KEEPALIVE_S):
                        await follower.changed.wait()
                except TimeoutError:
                    yield {"event": {"keepalive": {}}}
        finally:
            process.followers.discard(follower)

    async def send_input(self, process: Process, given: Any, timeout: float | None) -> None:
        """SendInput; waits at most `timeout` seconds for room.  Raises RpcError."""
        kinds = [
            kind for kind in ("stdin", "pty") if isinstance(given, dict) and isinstance(given.get(kind), str)
        ]
        if not kinds:
            raise RpcError("invalid_argument", "input: stdin or pty")
        if (kinds[0] == "pty") != process.is_pty:
            raise RpcError(
                "failed_precondition", "input for a terminal goes to one, as pty; other input as stdin"
            )
        try:
            await process.handle.send_stdin(base64.b64decode(given[kinds[0]]), timeout)
        except ValueError:
            raise RpcError("invalid_argument", "input: not Base64") from None
        except SandboxError as error:
            raise as_rpc(error) from None

    def update(self, process: Process, request: dict[str, Any]) -> None:
        """Update: the size of a terminal.  Raises RpcError."""
        pty = request.get("pty")
        if not isinstance(pty, dict) or not isinstance(process.handle, AsyncPtyHandle):
            raise RpcError("failed_precondition", "it has no terminal, or no size is given")
        rows, columns = size_of(pty)
        process.handle.resize(rows, columns)

    def signal(self, process: Process, name: object) -> None:
        """SendSignal.  Raises RpcError."""
        if not isinstance(name, (str, int)) or name not in _SIGNALS:
            raise RpcError("invalid_argument", "signal: SIGTERM or SIGKILL")
        process.handle.kill(_SIGNALS[name])

    def close(self) -> None:
        """The sandbox ends: end all followers."""
        for process in list(self.by_pid.values()):
            if process.task is not None:
                process.task.cancel()
            for follower in process.followers:
                follower.put(
                    {
                        "end": {
                            "exitCode": 137,
                            "exited": False,
                            "status": "signal: killed",
                            "error": "the sandbox was ended",
                        }
                    }
                )
        self.by_pid.clear()


def size_of(pty: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns of a terminal.  Raises RpcError."""
    size = pty.get("size")
    found = [size.get(name) for name in ("rows", "cols")] if isinstance(size, dict) else []
    if not found or not all(isinstance(each, int) and 0 < each < 1 << 16 for each in found):
        raise RpcError("invalid_argument", "pty.size: rows and cols from 1 to 65535")
    return int(found[0] or 0), int(found[1] or 0)


def as_rpc(error: SandboxError) -> RpcError:
    """The Connect error for an error of the SDK."""
    from cloche.sdk.errors import CodeError, FileNotFound, InvalidArgument, NotFound, SandboxTimeout

    for kind, code in (
        (FileNotFound, "not_found"),
        (InvalidArgument, "invalid_argument"),
        (SandboxTimeout, "deadline_exceeded"),
        (SandboxEnded, "unavailable"),
        (NotFound, "unavailable"),
        (CodeError, "failed_precondition"),
    ):
        if isinstance(error, kind):
            return RpcError(code, str(error))
    return RpcError("internal", str(error))
