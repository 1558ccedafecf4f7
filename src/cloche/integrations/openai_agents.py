"""The OpenAI Agents SDK (0.24 and its like): a client of sandboxes for `SandboxAgent`.

    from agents.sandbox import SandboxRunConfig
    from cloche.integrations.openai_agents import ClocheSandboxClient, ClocheSandboxClientOptions

    config = SandboxRunConfig(client=ClocheSandboxClient(), options=ClocheSandboxClientOptions(memory="1g"))

The workspace is a directory inside; a snapshot of it is a tar archive, for which the sandbox needs tar.
"""

import io
import uuid
from pathlib import Path
from typing import Any, Final, Literal

from agents.sandbox.errors import (
    ExecTimeoutError,
    ExecTransportError,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
    WorkspaceReadNotFoundError,
)
from agents.sandbox.manifest import Manifest
from agents.sandbox.session.base_sandbox_session import BaseSandboxSession
from agents.sandbox.session.manager import Instrumentation
from agents.sandbox.session.sandbox_client import BaseSandboxClient, BaseSandboxClientOptions
from agents.sandbox.session.sandbox_session import SandboxSession
from agents.sandbox.session.sandbox_session_state import SandboxSessionState
from agents.sandbox.session.workspace_payloads import coerce_write_payload
from agents.sandbox.snapshot import SnapshotBase, SnapshotSpec, resolve_snapshot
from agents.sandbox.types import ExecResult, ExposedPortEndpoint, User

from cloche.sdk import AsyncSandbox, FileNotFound, SandboxError

ARCHIVE_BYTES: Final = 1 << 30
_TAR_S: Final = 600.0


class ClocheSandboxClientOptions(BaseSandboxClientOptions):
    """The options that sandboxes are made with; `run_options` are further options of `cloche run`."""

    type: Literal["cloche"] = "cloche"
    rootfs: str | None = None
    memory: str | None = None
    cpus: float | None = None
    pids: int | None = None
    mounts: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    exposed_ports: tuple[int, ...] = ()
    run_options: tuple[str, ...] = ()


class ClocheSandboxSessionState(SandboxSessionState):
    """The part of a session that outlives its process: the options for another sandbox like it."""

    type: Literal["cloche"] = "cloche"
    options: dict[str, Any] = {}


def _name_of(user: str | User | None) -> str | None:
    return user.name if isinstance(user, User) else user


class ClocheSandboxSession(BaseSandboxSession):
    """A session in one sandbox, which ends with it."""

    state: ClocheSandboxSessionState

    def __init__(self, state: ClocheSandboxSessionState) -> None:
        self.state = state
        self.sandbox: AsyncSandbox | None = None

    def _running_sandbox(self) -> AsyncSandbox:
        if self.sandbox is None:
            raise SandboxError("the session has not been started; use `async with session`")
        return self.sandbox

    async def _ensure_backend_started(self) -> None:
        if self.sandbox is None or not await self.sandbox.is_running():
            options = ClocheSandboxClientOptions.model_validate(self.state.options)
            self.sandbox = await AsyncSandbox.create(
                rootfs=options.rootfs,
                memory=options.memory,
                cpus=options.cpus,
                pids=options.pids,
                mounts=options.mounts,
                allow=options.allow,
                ports=options.exposed_ports,
                options=options.run_options,
                metadata={"made-by": "openai-agents", "session": str(self.state.session_id)},
            )

    async def _prepare_backend_workspace(self) -> None:
        await self._running_sandbox().files.make_dir(self.state.manifest.root)

    async def _shutdown_backend(self) -> None:
        if self.sandbox is not None:
            await self.sandbox.kill()

    async def running(self) -> bool:
        return self.sandbox is not None and await self.sandbox.is_running()

    async def _exec_internal(self, *command: str | Path, timeout: float | None = None) -> ExecResult:
        words = [str(word) for word in command]
        try:
            environment = await self.state.manifest.environment.resolve()
            result = await self._running_sandbox().commands.run(
                words, timeout=timeout, cwd=self.state.manifest.root, env=environment
            )
        except SandboxError as error:
            raise ExecTransportError(command=words, cause=error) from error
        if result.timed_out:
            raise ExecTimeoutError(command=words, timeout_s=timeout)
        return ExecResult(
            stdout=result.stdout_bytes,
            stderr=result.stderr_bytes + result.error.encode(),
            exit_code=result.exit_code,
        )

    async def _resolve_exposed_port(self, port: int) -> ExposedPortEndpoint:
        host, _colon, number = self._running_sandbox().get_host(port).rpartition(":")
        return ExposedPortEndpoint(host=host, port=int(number))

    async def read(self, path: Path, *, user: str | User | None = None) -> io.IOBase:
        where = self.normalize_path(path)
        try:
            data = await self._running_sandbox().files.read(where, format="bytes", user=_name_of(user))
        except FileNotFound as error:
            raise WorkspaceReadNotFoundError(path=Path(path), cause=error) from error
        except SandboxError as error:
            raise WorkspaceArchiveReadError(path=Path(path), cause=error) from error
        return io.BytesIO(data)

    async def write(self, path: Path, data: io.IOBase, *, user: str | User | None = None) -> None:
        where = self.normalize_path(path, for_write=True)
        payload = coerce_write_payload(path=Path(path), data=data)
        try:
            await self._running_sandbox().files.write(where, payload.stream.read(), user=_name_of(user))
        except SandboxError as error:
            raise WorkspaceArchiveWriteError(path=Path(path), cause=error) from error

    async def persist_workspace(self) -> io.IOBase:
        root = self.state.manifest.root
        left_out = [f"--exclude=./{each}" for each in sorted(self._persist_workspace_skip_relpaths())]
        words = ["tar", "-C", root, *left_out, "-cf", "-", "."]
        try:
            result = await self._running_sandbox().commands.run(
                words, timeout=_TAR_S, max_output=ARCHIVE_BYTES, check=True
            )
        except SandboxError as error:
            raise WorkspaceArchiveReadError(path=Path(root), cause=error) from error
        if result.truncated:
            raise WorkspaceArchiveReadError(path=Path(root), context={"reason": "larger than 1 GiB"})
        return io.BytesIO(result.stdout_bytes)

    async def hydrate_workspace(self, data: io.IOBase) -> None:
        root = self.state.manifest.root
        archive = data.read()
        try:
            await self._running_sandbox().files.make_dir(root)
            await self._running_sandbox().commands.run(
                ["tar", "-C", root, "-xf", "-"], stdin=archive, timeout=_TAR_S, check=True
            )
        except SandboxError as error:
            raise WorkspaceArchiveWriteError(path=Path(root), cause=error) from error


class ClocheSandboxClient(BaseSandboxClient):
    """Makes sessions."""

    backend_id = "cloche"
    supports_default_options = True

    def __init__(self, *, instrumentation: Instrumentation | None = None) -> None:
        self._instrumentation: Instrumentation = instrumentation or Instrumentation()

    async def create(
        self,
        *,
        snapshot: SnapshotSpec | SnapshotBase | None = None,
        manifest: Manifest | None = None,
        options: ClocheSandboxClientOptions | None = None,
    ) -> SandboxSession:
        chosen = options if options is not None else ClocheSandboxClientOptions()
        plan = self._validate_manifest_for_create(manifest if manifest is not None else Manifest())
        session_id = uuid.uuid4()
        state = ClocheSandboxSessionState(
            session_id=session_id,
            manifest=plan,
            snapshot=resolve_snapshot(snapshot, str(session_id)),
            exposed_ports=chosen.exposed_ports,
            options=chosen.model_dump(mode="json"),
        )
        return self._wrap_session(ClocheSandboxSession(state), instrumentation=self._instrumentation)

    async def delete(self, session: SandboxSession) -> SandboxSession:
        await session._inner._shutdown_backend()
        return session

    async def resume(self, state: SandboxSessionState) -> SandboxSession:
        """A new sandbox; its workspace comes from the snapshot."""
        if not isinstance(state, ClocheSandboxSessionState):
            raise TypeError("a state of another client's session")
        state.assert_path_grants_rebound()
        return self._wrap_session(ClocheSandboxSession(state), instrumentation=self._instrumentation)

    def deserialize_session_state(self, payload: dict[str, object]) -> SandboxSessionState:
        return self._deserialize_session_state_payload(payload, ClocheSandboxSessionState)
