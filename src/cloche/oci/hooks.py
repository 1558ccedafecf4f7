"""Hooks of a bundle (OCI runtime specification, "POSIX-platform Hooks").

All kinds run in the host's namespaces, unconfined, as the caller of the runtime: they come from the engine, as the
bundle does.  Each gets the container's state on standard input.
"""

import os
import select
import signal
import time
from typing import Any, Final

from cloche.oci import quickjson as json
from cloche.oci.errors import OciError

_MAX_OUTPUT: Final = 65536


def run_hooks(hooks: dict[str, Any], kind: str, state: dict[str, Any]) -> None:
    """Run those of one kind in order.  Raises OciError at the first that fails."""
    for index, hook in enumerate(hooks.get(kind) or []):
        problem = _run(hook, json.dumps(state).encode())
        if problem:
            raise OciError(f"error running {kind} hook #{index}: {problem}")


def _run(hook: dict[str, Any], state: bytes) -> str:
    """Run one hook; returns an error text, or an empty one."""
    path = hook["path"]
    argv = hook.get("args") or [path]
    given = hook.get("env") or []
    environment: dict[str, str] = {} if given else dict(os.environ)  # as runc does it
    for item in given:
        key, _equals, value = item.partition("=")
        environment[key] = value
    hear, say = os.pipe2(os.O_CLOEXEC)
    output_read, output_write = os.pipe2(os.O_CLOEXEC)
    actions = [
        (os.POSIX_SPAWN_DUP2, hear, 0),
        (os.POSIX_SPAWN_DUP2, output_write, 1),
        (os.POSIX_SPAWN_DUP2, output_write, 2),
    ]
    try:
        pid = os.posix_spawn(path, argv, environment, file_actions=actions, setsigmask=[])
    except OSError as error:
        os.close(say)
        os.close(output_read)
        return f"{path}: {error.strerror}"
    finally:
        os.close(hear)
        os.close(output_write)
    os.set_blocking(say, False)
    try:
        os.write(say, state)  # a pipe takes 64 KiB, more than a state is
    except OSError:
        pass
    os.close(say)
    timeout = hook.get("timeout") or 0
    output, is_late = _follow(pid, output_read, time.monotonic() + timeout if timeout > 0 else -1.0)
    if is_late:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if is_late:
        return f"hook ran past specified timeout of {float(timeout)}s"
    if status:
        text = output.decode(errors="replace").strip()
        how = f"exit status {status}" if status > 0 else f"signal: {-status}"
        return f"{how}, stdout: , stderr: {text}"
    return ""


def _follow(pid: int, output: int, deadline: float) -> tuple[bytes, bool]:
    """Wait until it ends (its children may keep the output open). Returns its output, and whether it took too long."""
    found = bytearray()
    watch = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(watch, select.POLLIN)
    poller.register(output, select.POLLIN)
    try:
        while True:
            left_ms = int((deadline - time.monotonic()) * 1000) + 1 if deadline >= 0 else None
            if left_ms is not None and left_ms <= 0:
                return bytes(found), True
            ready = [fd for fd, _events in poller.poll(left_ms)]
            if output in ready:
                data = os.read(output, 4096)
                if data:
                    found += data[: _MAX_OUTPUT - len(found)]
                    continue
                poller.unregister(output)
            if watch in ready:
                return bytes(found), False
    finally:
        os.close(watch)
        os.close(output)
