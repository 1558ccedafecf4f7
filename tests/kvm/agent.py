"""Runs in the machine, as its process 1: takes commands from the virtio port, gives back output and status.

It is started by /init (contents.py) with nothing but Python's standard library, and imports little of that: every
import costs time in an emulated processor.  A frame is a kind (one byte), a length (four, little-endian) and that many
bytes.  Nothing but this program writes to the port, so no message of the kernel can get between frames.
"""

import json
import os
import select
import signal
import sys
import time
from typing import Any

PORT_NAME = "cloche.agent"
READY, RUN, PUT, OUT, ERR, EXIT, END = b"RrpoexE"  # kinds of frames
KILLED_LATE = 124  # the status of a command that was ended because its time was over
PIECE = 1 << 16
LINGER_S = 5.0  # how long output is waited for once the command itself has ended
# Not the first processor: any other that restores the state of a floating point unit rewrites words of that one, from
# its own thread, among them how a nested machine on it finds its page tables (README.md, "The triple fault").
PROCESSORS = {1, 2}


class Port:
    """The connection to the host."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def send(self, kind: int, payload: bytes = b"") -> None:
        data = memoryview(bytes([kind]) + len(payload).to_bytes(4, "little") + payload)
        while data:
            data = data[os.write(self.fd, data) :]

    def receive(self) -> tuple[int, bytes]:
        head = self._exactly(5)
        return head[0], self._exactly(int.from_bytes(head[1:], "little"))

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = os.read(self.fd, min(length - len(data), PIECE))
            if not piece:  # the other end is closed: the machine is not needed any more
                power_off()
            data += piece
        return data


def open_port() -> Port:
    """The virtio port of that name, when the driver has found it."""
    folder = "/sys/class/virtio-ports"
    while True:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            with open(f"{folder}/{name}/name", encoding="ascii") as file:
                if file.read().strip() == PORT_NAME:
                    return Port(os.open(f"/dev/{name}", os.O_RDWR | os.O_CLOEXEC))
        time.sleep(0.02)


def power_off() -> None:
    os.sync()
    os.execv("/bin/busybox", ["busybox", "poweroff", "-f"])


def start(order: "dict[str, Any]", stdin: int, stdout: int, stderr: int) -> int:
    """Fork and execute; the pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                signal.signal(number, signal.SIG_DFL)
        for target, fd in enumerate((stdin, stdout, stderr)):
            os.dup2(fd, target)
        os.closerange(3, 64)
        os.sched_setaffinity(0, PROCESSORS)
        os.chdir(order["cwd"])
        if order["uid"]:
            os.setgroups([])
            os.setgid(order["uid"])
            os.setuid(order["uid"])
        os.execvpe(order["argv"][0], order["argv"], order["env"])
    except OSError as error:
        os.write(2, f"{order['argv'][0]}: {error}\n".encode())
    finally:
        os._exit(127)


def run(port: Port, order: "dict[str, Any]", stdin: bytes) -> None:
    """One command, until it has ended and no process writes any more."""
    with open("/run/stdin", "wb") as file:
        file.write(stdin)
    read_end = os.open("/run/stdin", os.O_RDONLY)
    pipes = {os.pipe(): OUT, os.pipe(): ERR}
    (out_read, out_write), (err_read, err_write) = pipes
    pid = start(order, read_end, out_write, err_write)
    for fd in (read_end, out_write, err_write):
        os.close(fd)
    kinds = {out_read: OUT, err_read: ERR}
    left, status = dict(kinds), -1
    deadline = time.monotonic() + order["timeout"]
    while left or status < 0:
        ready = select.select(list(left), [], [], 0.05)[0] if left else ()
        for fd in ready:
            data = os.read(fd, PIECE)
            if data:
                port.send(kinds[fd], data)
            else:
                del left[fd]
        ended = reap(pid)
        if ended >= 0:
            status, deadline = ended, min(deadline, time.monotonic() + LINGER_S)
        if time.monotonic() > deadline and not ready:
            if status >= 0:
                break
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            status, deadline = KILLED_LATE, time.monotonic() + LINGER_S
    for fd in kinds:
        os.close(fd)
    port.send(EXIT, str(status).encode())


def reap(wanted: int) -> int:
    """Reap all processes that have ended, as process 1 must. Returns the exit status of `wanted`, -1 if it has not
    ended.
    """
    status = -1
    while True:
        try:
            pid, word = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == wanted:
            code = os.waitstatus_to_exitcode(word)
            status = code if code >= 0 else 128 - code


def main() -> None:
    port = open_port()
    port.send(READY)
    while True:
        kind, payload = port.receive()
        if kind == END:
            power_off()
        length = int.from_bytes(payload[:4], "little")
        order, rest = json.loads(payload[4 : 4 + length]), payload[4 + length :]
        if kind == RUN:
            run(port, order, rest)
        elif kind == PUT:
            os.makedirs(os.path.dirname(order["path"]), exist_ok=True)
            with open(order["path"], "wb") as file:
                file.write(rest)
            os.chmod(order["path"], order["mode"])
            port.send(EXIT, b"0")


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:  # the kernel would only report that init has ended
        print("agent:", repr(error), file=sys.stderr, flush=True)
        raise
