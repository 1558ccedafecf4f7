"""A sandbox of the endpoint: whose it is, how long it lives, and what it can be asked, wherever it runs."""

import secrets
import socket
import time
from dataclasses import dataclass

from cloche.sdk.aio import AsyncSandbox
from cloche.serve.files import Files
from cloche.serve.interpreter import Interpreter
from cloche.serve.processes import Processes


@dataclass(frozen=True)
class Template:
    """What `Sandbox.create("NAME")` starts."""

    name: str
    rootfs: str = ""  # a directory; empty: the host's system directories
    image: str = ""


class ServeError(Exception):
    """A request of the API fails with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status: int = status
        self.message: str = message


class Entry:
    """A sandbox."""

    poll_s: float = 1.0  # between two looks whether it runs

    def __init__(self, ident: str, owner: str, template: Template) -> None:
        self.ident: str = ident
        self.owner: str = owner
        self.template: Template = template
        self.metadata: dict[str, str] = {}
        self.internet: bool | None = None
        self.envd_token: str = "envd_" + secrets.token_urlsafe(32)
        self.traffic_token: str = "traffic_" + secrets.token_urlsafe(32)
        self.started_s: float = time.time()
        self.end_s: float = 0.0
        self.is_paused: bool = False
        self.pauses_at_end: bool = False
        self.is_public: bool = True  # whoever knows its name reaches its ports

    def is_traffic_token(self, token: str) -> bool:
        """Whether it lets a request reach the ports."""
        return secrets.compare_digest(token.encode(), self.traffic_token.encode())

    async def dial(self, port: int) -> socket.socket:
        """A connection to a port.  Raises PortClosed, SandboxError."""
        raise NotImplementedError

    def way(self, port: int) -> tuple[int, list[tuple[bytes, bytes]]]:
        """The port to dial for a port of the sandbox, and headers that say the rest."""
        return port, []

    async def kill(self) -> None:
        """Raises SandboxError."""
        raise NotImplementedError

    async def is_running(self) -> bool:
        """Raises SandboxError."""
        raise NotImplementedError

    async def pause(self) -> None:
        """Raises SandboxError."""
        raise NotImplementedError

    async def resume(self) -> None:
        """Raises SandboxError."""
        raise NotImplementedError

    async def usage(self) -> tuple[int, float]:
        """Bytes of memory, and processors in use.  Raises SandboxError."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what requests have left."""


class LocalEntry(Entry):
    """A sandbox of this machine."""

    def __init__(
        self, ident: str, owner: str, template: Template, sandbox: AsyncSandbox, cwd: str = "/"
    ) -> None:
        super().__init__(ident, owner, template)
        self.sandbox: AsyncSandbox = sandbox
        self.processes: Processes = Processes(sandbox)
        self.files: Files = Files(sandbox)
        self.interpreter: Interpreter = Interpreter(sandbox, cwd)
        self.last_cpu: tuple[float, float] = (time.monotonic(), 0.0)

    async def dial(self, port: int) -> socket.socket:
        return await self.sandbox.dial(port)

    async def kill(self) -> None:
        await self.sandbox.kill()

    async def is_running(self) -> bool:
        return await self.sandbox.is_running()

    async def pause(self) -> None:
        await self.sandbox.pause()

    async def resume(self) -> None:
        await self.sandbox.resume()

    async def usage(self) -> tuple[int, float]:
        found = await self.sandbox.get_metrics()
        now = time.monotonic()
        then, cpu_s = self.last_cpu
        self.last_cpu = (now, found.cpu_seconds)
        return found.memory_bytes, (found.cpu_seconds - cpu_s) / max(now - then, 0.001)

    def close(self) -> None:
        self.processes.close()
        self.files.close()
        self.interpreter.close()
