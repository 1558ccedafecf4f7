"""Pydantic AI (2.68 and its like): a sandbox as an agent's workspace, and as tools.

from cloche.integrations.pydantic_ai import ClocheToolset, ClocheWorkspace

Agent(model, capabilities=[ClocheWorkspace(memory="1g")])  # what tools and hooks find in ctx.workspace
Agent(model, toolsets=[ClocheToolset(memory="1g")])  # run_command, run_code, read_file, write_file, list_files

A workspace's sandbox is named by its ref, outlives the run, and ends with `delete` or with this process.
"""

import asyncio
import errno
import posixpath
from collections.abc import Awaitable, Mapping
from typing import Any, Final, TypeVar

from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.tools import RunContext
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.workspaces import (
    CommandResult,
    FileEntry,
    SupportsCommands,
    SupportsFilesystem,
    SupportsRealpath,
    WorkspaceBackend,
    WorkspaceCommand,
    WorkspaceOutputLimitError,
    WorkspaceRef,
    WorkspaceTimeoutError,
    WorkspaceUnavailableError,
)

from cloche.integrations.tools import TIMEOUT_S, Tools
from cloche.sdk import AsyncSandbox, FileError, FileInfo, NotFound, Sandbox, SandboxEnded

PROVIDER: Final = "cloche"
WORKING_DIR: Final = "/tmp/workspace"  # every user inside can make it there
MAX_OUTPUT: Final = 10 << 20  # bytes of each stream; more is an error
_SHOWN_CHARACTERS: Final = 1 << 16  # of what there was until then
_MAX_LINKS: Final = 40  # as Linux has it
_MADE_BY: Final = "pydantic-ai"

T = TypeVar("T")

# Sandboxes that outlive the backends which made them, by name: until `delete`, or the end of this process.
_HELD: Final[dict[str, AsyncSandbox]] = {}


async def _answered(work: Awaitable[T]) -> T:
    """An answer of the sandbox, with the exceptions that workspaces have."""
    try:
        return await work
    except (SandboxEnded, NotFound) as error:
        raise WorkspaceUnavailableError(str(error)) from error
    except FileError as error:
        raise OSError(error.errno, str(error), error.path) from error  # the built-in one of its errno


class ClocheWorkspaceBackend(WorkspaceBackend, SupportsCommands, SupportsFilesystem, SupportsRealpath):
    """A sandbox, made at the first operation, or the one that `ref` names."""

    def __init__(
        self, ref: WorkspaceRef | None = None, *, working_dir: str = WORKING_DIR, **options: Any
    ) -> None:
        if not posixpath.isabs(working_dir):
            raise ValueError(f"working_dir: {working_dir!r}: write an absolute path")
        self._ref: WorkspaceRef | None = ref
        self._given_dir: str = working_dir
        self._options: dict[str, Any] = options
        self._sandbox: AsyncSandbox | None = None
        self._working_dir: str = ""
        self._starting: asyncio.Task[None] | None = None

    @property
    def ref(self) -> WorkspaceRef | None:
        return self._ref

    async def _start(self) -> None:
        sandbox = self._sandbox
        if sandbox is None:
            if self._ref is None:
                metadata = {**self._options.get("metadata", {}), "made-by": _MADE_BY}
                sandbox = await AsyncSandbox.create(**{**self._options, "metadata": metadata})
                self._ref = WorkspaceRef(provider=PROVIDER, id=sandbox.name)
                _HELD[sandbox.name] = sandbox
            else:
                sandbox = await _attached(self._ref, self._options.get("root", ""))
            self._sandbox = sandbox
        await sandbox.files.make_dir(self._given_dir)
        self._working_dir = await self._resolved(sandbox, self._given_dir)

    async def _running(self) -> AsyncSandbox:
        """The sandbox.  One task makes it, which no caller's cancellation ends."""
        if not self._working_dir:
            if self._starting is None:
                self._starting = asyncio.ensure_future(self._start())
            starting = self._starting
            try:
                await _answered(asyncio.shield(starting))
            finally:
                if starting.done() and self._starting is starting:
                    self._starting = None
        assert self._sandbox is not None
        return self._sandbox

    async def working_dir(self) -> str:
        sandbox = await self._running()
        if not await sandbox.is_running():
            raise WorkspaceUnavailableError(f"the sandbox {sandbox.name} has ended")
        return self._working_dir

    # -- commands ----------------------------------------------------------------------------------------
    async def run(
        self,
        command: WorkspaceCommand,
        *,
        shell: bool = False,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> CommandResult:
        if isinstance(command, str) != shell:
            raise TypeError("shell=True takes one string, shell=False a list of words")
        if timeout is not None and not 0 < timeout < float("inf"):
            raise ValueError(f"timeout: {timeout}: more than 0 seconds, or None")
        sandbox = await self._running()
        done = await _answered(
            sandbox.commands.run(
                command if isinstance(command, str) else list(command),
                cwd=self._working_dir,
                env=dict(env or {}),
                timeout=timeout,
                max_output=MAX_OUTPUT,
            )
        )
        stdout, stderr = done.stdout, done.stderr + done.error
        if done.timed_out:
            raise WorkspaceTimeoutError(
                f"the command took longer than {timeout:g} s and was killed", stdout=stdout, stderr=stderr
            )
        if done.truncated:
            raise WorkspaceOutputLimitError(
                f"more than {MAX_OUTPUT >> 20} MiB of output; write it to a file and read parts of that",
                limit=MAX_OUTPUT,
                stdout=stdout[:_SHOWN_CHARACTERS],
                stderr=stderr[:_SHOWN_CHARACTERS],
            )
        return CommandResult(exit_code=done.exit_code, stdout=stdout, stderr=stderr)

    # -- files -------------------------------------------------------------------------------------------
    async def read_bytes(self, path: str) -> bytes:
        sandbox = await self._running()
        if (await _answered(sandbox.files.get_info(path, follow=True))).is_dir:
            raise IsADirectoryError(errno.EISDIR, "a directory", path)
        return await _answered(sandbox.files.read(path, format="bytes"))

    async def write_bytes(self, path: str, data: bytes) -> None:
        sandbox = await self._running()
        where = await self.realpath(path)  # the sandbox would replace a link
        mode: int | None = None
        try:
            info = await _answered(sandbox.files.get_info(where))
        except FileNotFoundError:
            pass
        else:
            if info.is_dir:
                raise IsADirectoryError(errno.EISDIR, "a directory", path)
            if info.kind != "file":
                raise OSError(errno.EINVAL, "not a regular file", path)
            # It is replaced, which its directory's rights would allow
            if not (await _answered(sandbox.commands.run(["test", "-w", where]))).ok:
                raise PermissionError(errno.EACCES, "not writable", path)
            mode = info.mode
        await _answered(sandbox.files.write(where, data, mode=mode))

    async def stat(self, path: str) -> FileEntry:
        sandbox = await self._running()
        return _entry(path, await _answered(sandbox.files.get_info(path, follow=True)))

    async def list_dir(self, path: str) -> list[FileEntry]:
        sandbox = await self._running()
        found: list[FileEntry] = []
        for info in await _answered(sandbox.files.list(path)):
            if info.kind == "symlink":
                try:
                    info = await _answered(sandbox.files.get_info(info.path, follow=True))
                except OSError:
                    pass  # it leads nowhere, or round and round
            found.append(_entry(posixpath.join(path, info.name), info))
        return sorted(found, key=lambda entry: entry.path)

    async def make_dir(self, path: str) -> None:
        sandbox = await self._running()
        await _answered(sandbox.files.make_dir(path))

    async def remove(self, path: str) -> None:
        sandbox = await self._running()
        folder, name = posixpath.split(path.rstrip("/"))
        target = posixpath.join(await self.realpath(folder or "/"), name) if name else "/"
        if name in (".", ".."):
            target = await self.realpath(path)
        if self._working_dir == target or self._working_dir.startswith(target.rstrip("/") + "/"):
            raise ValueError(f"{path}: the working directory and what is above it stay")
        await _answered(sandbox.files.remove(target))

    async def exists(self, path: str) -> bool:
        sandbox = await self._running()
        try:
            await _answered(sandbox.files.get_info(path, follow=True))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        return True

    async def realpath(self, path: str) -> str:
        return await self._resolved(await self._running(), path)

    async def _resolved(self, sandbox: AsyncSandbox, path: str) -> str:
        """As os.path.realpath: link by link, what is missing as it is written."""
        rest, resolved, links = [part for part in path.split("/") if part][::-1], "", 0
        while rest:
            part = rest.pop()
            if part == ".":
                continue
            if part == "..":
                resolved = posixpath.dirname(resolved).rstrip("/")
                continue
            here = f"{resolved}/{part}"
            try:
                info = await _answered(sandbox.files.get_info(here))
            except (FileNotFoundError, NotADirectoryError):
                resolved = here
                continue
            if info.kind != "symlink":
                resolved = here
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, "too many symbolic links", path)
            if info.target.startswith("/"):
                resolved = ""
            rest += [each for each in info.target.split("/") if each][::-1]
        return resolved or "/"


def _entry(path: str, info: FileInfo) -> FileEntry:
    name = posixpath.basename(posixpath.normpath(path))
    return FileEntry(
        name=name, path=path, is_dir=info.is_dir, size=info.size if info.kind == "file" else None
    )


async def _attached(ref: WorkspaceRef, root: str) -> AsyncSandbox:
    """The sandbox of a ref, if it was made for one: a ref may come from a history that others have sent."""
    sandbox = _HELD.get(ref.id)
    if sandbox is not None:
        return sandbox
    found = await AsyncSandbox.connect(ref.id, root=root)
    if (await found.get_info()).metadata.get("made-by") != _MADE_BY:
        raise WorkspaceUnavailableError(f"the sandbox {ref.id} was not made for a workspace")
    return found


async def delete(ref: WorkspaceRef, *, root: str = "") -> bool:
    """End the sandbox of a workspace; whether it ran."""
    try:
        sandbox = await _attached(ref, root)
    except NotFound:
        return False
    _HELD.pop(ref.id, None)
    return await sandbox.kill()


class ClocheWorkspace(AbstractCapability[Any]):
    """Gives each run a workspace in a sandbox of its own, made of `options` (those of `Sandbox.create`).

    A run that is given a ref, or a history with one, continues in its sandbox.
    """

    def __init__(self, *, working_dir: str = WORKING_DIR, **options: Any) -> None:
        self.working_dir: str = working_dir
        self.sandbox_options: dict[str, Any] = options

    def get_workspace(self, ctx: RunContext[Any], *, ref: WorkspaceRef | None) -> WorkspaceBackend | None:
        if ref is not None and ref.provider != PROVIDER:
            return None
        return ClocheWorkspaceBackend(ref, working_dir=self.working_dir, **self.sandbox_options)


class ClocheToolset(FunctionToolset[Any]):
    """Tools that share a sandbox: one that is given, or one of `options` (those of `Sandbox.create`).

    The latter is made by the first tool that is called, and ends with `close` or this object.
    """

    def __init__(
        self,
        sandbox: Sandbox | None = None,
        *,
        timeout: float = TIMEOUT_S,
        id: str | None = None,
        **options: Any,
    ) -> None:
        self.box: Tools = Tools(sandbox, timeout, options)
        super().__init__(self.box.functions(), id=id)

    def close(self) -> None:
        """End the sandbox, unless it was given."""
        self.box.close()
