"""Jupyter (jupyter_client 8 and its like): kernels that run in sandboxes, by a kernel provisioner.

In a kernel.json:

    "argv": ["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "metadata": {"kernel_provisioner": {"provisioner_name": "cloche", "config": {"sandbox": {"memory": "1g"}}}}

A kernel has a sandbox of its own, which a restart keeps, files and all.  The kernel listens inside, on ports that are
published on the host's loopback; messages are signed with the kernel manager's key, as always.  `argv` is of the
inside, and the environment is what kernel.json says, not the server's.
"""

import asyncio
import json
import re
import secrets
import signal
import sys
import threading
from typing import Any, Final

from jupyter_client.provisioning import KernelProvisionerBase
from traitlets import Dict, Unicode

from cloche.sdk import CommandHandle, InvalidArgument, Sandbox, SandboxError

PORTS: Final = {
    "shell_port": 50001,
    "iopub_port": 50002,
    "stdin_port": 50003,
    "hb_port": 50004,
    "control_port": 50005,
}
CONNECTION_FILE: Final = "/tmp/kernel-connection.json"
MAX_OUTPUT: Final = 1 << 16  # of what a kernel writes to its own streams; the server's log gets all of it
_POLL_S: Final = 0.1
_SIGNATURES: Final = "hmac-sha256"
_NAME: Final = re.compile(r"\{([A-Za-z0-9_]+)\}")


class _Kernel:
    """The process of a kernel, followed by a thread: its output goes to the caller's standard error."""

    def __init__(self, handle: CommandHandle) -> None:
        self.handle: CommandHandle = handle
        self.exit_code: int | None = None
        self.thread: threading.Thread = threading.Thread(
            target=self._follow, name="cloche-kernel", daemon=True
        )
        self.thread.start()

    def _follow(self) -> None:
        code = -signal.SIGKILL
        try:
            for piece in self.handle:
                sys.stderr.write(piece.text)
            code = self.handle.wait().exit_code
        except SandboxError:
            pass  # it has ended with its sandbox
        finally:
            self.exit_code = int(code)

    def signal(self, number: int) -> None:
        """To the kernel and what it has started."""
        try:
            self.handle.kill(number)
        except SandboxError:
            pass


class ClocheProvisioner(KernelProvisionerBase):
    """Jupyter's provisioner: starts and ends kernels."""

    sandbox = Dict(
        config=True, help="what Sandbox.create takes, by name; in mounts {cwd} is the notebook's folder"
    )
    cwd = Unicode(
        "", config=True, help="where the kernel starts, inside; empty: in the sandbox's own directory"
    )

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.box: Sandbox | None = None
        self.kernel: _Kernel | None = None

    @property
    def has_process(self) -> bool:
        return self.kernel is not None

    async def poll(self) -> int | None:
        return 0 if self.kernel is None else self.kernel.exit_code

    async def wait(self) -> int | None:
        while (code := await self.poll()) is None:
            await asyncio.sleep(_POLL_S)
        self.kernel = None
        return code

    async def send_signal(self, signum: int) -> None:
        if self.kernel is not None:
            await asyncio.to_thread(self.kernel.signal, signum)

    async def kill(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        await self.send_signal(signal.SIGTERM)

    async def cleanup(self, restart: bool = False) -> None:
        if not restart and self.box is not None:
            box, self.box = self.box, None
            await asyncio.to_thread(box.kill)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        manager = self.parent
        if getattr(manager, "transport", "tcp") != "tcp":
            raise InvalidArgument(
                "kernels in sandboxes are reached by TCP; leave KernelManager.transport as it is"
            )
        kwargs.pop("transport_encryption", None)
        if getattr(manager, "transport_encryption", "disabled") == "required":
            raise InvalidArgument(
                "encrypted transport is not offered for kernels in sandboxes: it stays on loopback"
            )
        words = [*self.kernel_spec.argv, *kwargs.pop("extra_arguments", [])]
        names = {"connection_file": CONNECTION_FILE, "resource_dir": self.kernel_spec.resource_dir}
        command = [_NAME.sub(lambda found: names.get(found[1], found[0]), word) for word in words]
        return dict(await super().pre_launch(cmd=command, **kwargs))

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict[str, Any]:
        given: dict[str, str] = kwargs.get("env") or {}
        # Not the server's, in which its secrets are.
        env = {name: given[name] for name in [*self.kernel_spec.env, "JPY_SESSION_NAME"] if name in given}
        self.connection_info = await asyncio.to_thread(self._launch, cmd, env, str(kwargs.get("cwd") or ""))
        return self.connection_info

    def _launch(self, cmd: list[str], env: dict[str, str], folder: str) -> dict[str, Any]:
        if self.box is None or not self.box.is_running():
            options = dict(self.sandbox)
            options["mounts"] = [
                each.replace("{cwd}", folder) if isinstance(each, str) else each
                for each in options.get("mounts", [])
            ]
            options["ports"] = [*options.get("ports", []), *PORTS.values()]
            options["metadata"] = {**options.get("metadata", {}), "made-by": "jupyter"}
            self.box = Sandbox.create(**options)
        session = getattr(self.parent, "session", None)
        key: bytes = session.key if session is not None else secrets.token_hex(32).encode()
        common = {
            "transport": "tcp",
            "signature_scheme": session.signature_scheme if session is not None else _SIGNATURES,
            "kernel_name": getattr(self.parent, "kernel_name", ""),
        }
        inside = {**common, **PORTS, "ip": "0.0.0.0", "key": key.decode()}
        self.box.files.write(CONNECTION_FILE, json.dumps(inside), mode=0o600)
        self.kernel = _Kernel(
            self.box.commands.run(cmd, background=True, env=env, cwd=self.cwd or None, max_output=MAX_OUTPUT)
        )
        hosts = {name: self.box.get_host(port).rpartition(":") for name, port in PORTS.items()}
        outside = {name: int(port) for name, (_ip, _colon, port) in hosts.items()}
        return {**common, **outside, "ip": "127.0.0.1", "key": key}
