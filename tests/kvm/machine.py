"""A machine in QEMU, emulated by TCG, whose kernel has a /dev/kvm: boots, runs commands, ends.

Commands and their output travel through a virtio port (agent.py has the protocol); the kernel's messages go to a serial
line of their own, which is kept for reports.  Nothing here can last: the whole machine has a hard limit of time, after
which QEMU is killed, and each command has its own.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.kvm.agent import END, ERR, EXIT, OUT, PORT_NAME, PUT, READY, RUN
from tests.kvm.kernel import Kernel

QEMU: Final = "qemu-system-x86_64"
CPU: Final = "max,la57=off"  # programs have 47 bits of addresses, as nearly everywhere
BOOT_S: Final = 240.0  # 4 s where nothing else runs
GRACE_S: Final = 60.0  # how much longer than a command's limit its answer is waited for
# `quiet`: the emulated serial line is slow.  The mitigations would only cost time: no test attacks this kernel.
KERNEL_LINE: Final = (
    "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable random.trust_cpu=on rdinit=/init"
)
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT: Final = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "CLOCHE_SPIN_NS": "20000000",  # a budget for waiting awake that suits an emulated processor
}


class MachineError(Exception):
    """The machine did not boot, or ended, or did not answer; with the last lines of its console."""


class Result:
    """The output and status of a command."""

    def __init__(self, status: int, stdout: bytes, stderr: bytes) -> None:
        self.status = status
        self.stdout = stdout
        self.stderr = stderr

    def __repr__(self) -> str:
        out, err = self.stdout.decode(errors="replace"), self.stderr.decode(errors="replace")[-4000:]
        return f"status {self.status}\n--- stdout\n{out}\n--- stderr\n{err}"


def missing() -> str:
    """Which program this machine lacks for it; empty if none."""
    return next((name for name in (QEMU, "busybox") if shutil.which(name) is None), "")


class Machine:
    """One boot.  A context manager: QEMU ends with it."""

    def __init__(
        self,
        kernel: Kernel,
        archive: Path,
        folder: Path,
        python: Path,
        memory_mib: int = 1536,
        lifetime_s: float = 1500.0,
        line: str = KERNEL_LINE,
        disk: Path | None = None,
    ) -> None:
        """`disk` is an image of a file system, which stays as it is: what the machine writes there is forgotten."""
        self.environment = {**ENVIRONMENT, "PATH": f"{python.parent}:{PATH}"}
        self.console = folder / "console.log"
        self.deadline = time.monotonic() + lifetime_s
        self.port, theirs = socket.socketpair()
        command = [
            *("nice", "-n", "5"),
            *(QEMU, "-accel", "tcg,thread=multi", "-machine", "pc", "-cpu", CPU, "-smp", "3"),
            *("-m", str(memory_mib), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-serial", f"file:{self.console}"),
            *("-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=agent,name={PORT_NAME}"),
            *("-chardev", f"socket,id=agent,fd={theirs.fileno()}"),
            *("-kernel", str(kernel.image), "-initrd", str(archive), "-append", line),
        ]
        if disk is not None:
            command += ["-drive", f"file={disk},if=virtio,format=raw,snapshot=on"]
        with theirs:
            self.errors = open(folder / "qemu.log", "wb")
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self.errors,
                stderr=self.errors,
                pass_fds=(theirs.fileno(),),
            )
        try:
            self._expect(READY, min(self.deadline, time.monotonic() + BOOT_S))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        argv: list[str],
        *,
        stdin: bytes = b"",
        cwd: str = "/root",
        uid: int = 0,
        env: dict[str, str] | None = None,
        timeout_s: float = 120.0,
        echo: bool = False,
    ) -> Result:
        """Run a command; status 124 where its time was over, 127 where it could not be executed."""
        order = {
            "argv": argv,
            "cwd": cwd,
            "uid": uid,
            "env": {**self.environment, **(env or {})},
            "timeout": timeout_s,
        }
        self._send(RUN, order, stdin)
        written = {OUT: b"", ERR: b""}
        deadline = min(self.deadline, time.monotonic() + timeout_s + GRACE_S)
        while True:
            kind, payload = self._receive(deadline)
            if kind == EXIT:
                return Result(int(payload), written[OUT], written[ERR])
            written[kind] += payload
            if echo:
                os.write(1 if kind == OUT else 2, payload)

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Make a file."""
        self._send(PUT, {"path": path, "mode": mode}, content)
        self._expect(EXIT, min(self.deadline, time.monotonic() + GRACE_S))

    def close(self) -> None:
        """Switch it off: asked first, then killed."""
        try:
            if self.process.poll() is None:
                self.port.settimeout(5)
                self.port.sendall(bytes([END]) + bytes(4))
                self.process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            self.process.kill()
            self.process.wait()
            self.port.close()
            self.errors.close()

    def _send(self, kind: int, order: dict[str, object], rest: bytes) -> None:
        head = json.dumps(order).encode()
        payload = len(head).to_bytes(4, "little") + head + rest
        try:
            self.port.settimeout(GRACE_S)
            self.port.sendall(bytes([kind]) + len(payload).to_bytes(4, "little") + payload)
        except OSError as error:
            raise self._failed(str(error))

    def _expect(self, kind: int, deadline: float) -> None:
        found, payload = self._receive(deadline)
        if found != kind:
            raise self._failed(f"answered {bytes([found])!r} {payload!r}")

    def _receive(self, deadline: float) -> tuple[int, bytes]:
        head = self._exactly(5, deadline)
        return head[0], self._exactly(int.from_bytes(head[1:], "little"), deadline)

    def _exactly(self, length: int, deadline: float) -> bytes:
        data = b""
        while len(data) < length:
            self.port.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                piece = self.port.recv(length - len(data))
            except TimeoutError:
                self.process.kill()
                raise self._failed("did not answer in time")
            except OSError as error:
                raise self._failed(str(error))
            if not piece:
                raise self._failed("ended")
            data += piece
        return data

    def _failed(self, why: str) -> MachineError:
        last = b""
        for path in (Path(self.errors.name), self.console):
            if path.exists():
                last += path.read_bytes()[-3000:]
        return MachineError(f"the machine {why}\n{last.decode(errors='replace')}")
