"""The birth of a zygote: a host process with the stub and the filter, from which every guest process is forked.

The stub says what it failed at by a step; what it needs (the moves of its vDSO, the filter) is sent to it.
"""

import errno
import os
import resource
import socket
import struct
from typing import Final

from cloche.arch.machine import MACHINE
from cloche.platform import _native
from cloche.platform import filter as seccomp_filter
from cloche.platform.layout import EV_PROCESS_DIED, MAX_FILTER, MAX_MOVES, VDSO_BASE, VDSO_SIZE

_FILTER_NEW_LISTENER: Final = 1 << 3
_FILTER_WAIT_KILLABLE_RECV: Final = 1 << 5
_START_TIMEOUT_S: Final = 10.0


class Zygote:
    """A zygote: its handles, and the place of the vDSO in it."""

    def __init__(self) -> None:
        self.process = -1
        self.thread = -1
        self.pid = -1
        self.vdso = (0, 0)

    def start(self, stub_fd: int, proc_fd: int, own_vdso: list[tuple[int, int]], *, is_strict: bool) -> None:
        """Execute the stub of `stub_fd`, and wait until it serves.  Raises OSError with a clear message."""
        flags = _FILTER_NEW_LISTENER | _FILTER_WAIT_KILLABLE_RECV
        for _attempt in range(10):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            with ours, theirs:
                ours.settimeout(_START_TIMEOUT_S)
                process, thread, pid = _native.spawn(stub_fd, theirs.fileno(), proc_fd)
                theirs.close()
                where, error, listener = self._greet(ours, flags, own_vdso, is_strict)
            if where == 0:
                _native.attach(listener)
                self.process, self.thread, self.pid = process, thread, pid
                self._wait()
                return
            _abandon(process, thread, pid)
            if where == 9 and error == errno.EINVAL and flags & _FILTER_WAIT_KILLABLE_RECV:
                flags &= ~_FILTER_WAIT_KILLABLE_RECV  # Linux before 5.19
            elif where == 9 and error == errno.EBUSY:
                raise OSError(
                    errno.EBUSY,
                    "this host process already has a seccomp listener (LXD, or a sandbox around us): "
                    "the systrap platform cannot run here",
                )
            elif where not in (5, 10, 11):
                raise OSError(error, f"the zygote failed to start (step {where}): {os.strerror(error)}")
        raise OSError(errno.EAGAIN, f"the zygote did not start (step {where}, errno {error})")

    def is_alive(self) -> bool:
        """Whether its memory is still there; asked when a process has died that nobody knows."""
        return _native.probe_memory(self.process) == 0

    def _greet(
        self, sock: socket.socket, flags: int, own_vdso: list[tuple[int, int]], is_strict: bool
    ) -> tuple[int, int, int]:
        """Talk to a starting zygote: (0, 0, listener), or (the step that failed, errno, -1)."""
        try:
            hello = sock.recv(16)
            failed = _failure(hello)
            if failed is not None:
                return failed[0], failed[1], -1
            moves, self.vdso = _plan_vdso(own_vdso, struct.unpack("<q", hello[:8])[0])
            program = seccomp_filter.build(not is_strict)
            flat = [word for move in moves for word in move] + [0] * (3 * (MAX_MOVES - len(moves)))
            padding = [0] * (MAX_FILTER - len(program))
            words = [len(moves), *flat, len(program), flags, *program, *padding]
            sock.send(struct.pack(f"<{len(words)}Q", *words))
            message, fds, _flags, _address = socket.recv_fds(sock, 16, 1)
        except (ConnectionError, TimeoutError) as e:
            return 11, e.errno or errno.ETIMEDOUT, -1
        failed = _failure(message)
        if failed is not None:
            return failed[0], failed[1], -1
        if not fds:
            return 11, errno.EPROTO, -1
        os.set_inheritable(fds[0], False)
        return 0, 0, fds[0]

    def _wait(self) -> None:
        while True:
            event = _native.wait_event(int(_START_TIMEOUT_S * 1e9), -1)
            if event is None:
                raise OSError(errno.ETIMEDOUT, "the zygote does not answer")
            if event[0] == EV_PROCESS_DIED:
                raise OSError(errno.ECHILD, f"the zygote died (wait status {event[3]:#x})")
            if event[1] == self.thread:
                break
        _native.take_pristine(self.thread)
        error = _native.probe_memory(self.process)
        if error:
            raise OSError(
                error,
                "the host refuses process_vm_readv on our own children "
                f"(Yama's ptrace_scope, a seccomp profile?): {os.strerror(error)}",
            )


def _abandon(process: int, thread: int, pid: int) -> None:
    _native.kill_process(process)
    while True:
        event = _native.wait_event(int(_START_TIMEOUT_S * 1e9), -1)
        if event is None:
            raise OSError(errno.ETIMEDOUT, f"the zygote {pid} does not die")
        if event[0] == EV_PROCESS_DIED:
            break
    _native.discard_thread(thread)
    _native.discard_process(process)


def _failure(message: bytes) -> tuple[int, int] | None:
    """The (step, errno) that a starting zygote reports, None if it reports none."""
    if not message:
        return 11, errno.EPIPE
    if len(message) == 16:
        where, error = struct.unpack("<qq", message)
        if where < 0:
            return -where, -error
    return None


def own_vdso_areas() -> list[tuple[int, int]]:
    """The areas of [vvar], [vvar_vclock] and [vdso] of this process: (address, length), the vDSO last.

    The kernel lays them out alike in every process; empty if the map cannot be read.
    """
    areas: list[tuple[int, int]] = []
    try:
        with open("/proc/self/maps", "rb") as file:
            for line in file:
                fields = line.split()
                if len(fields) == 6 and fields[5] in (b"[vvar]", b"[vvar_vclock]", b"[vdso]"):
                    low, high = fields[0].split(b"-")
                    areas.append((int(low, 16), int(high, 16) - int(low, 16)))
    except OSError:
        return []
    return areas


def _plan_vdso(own: list[tuple[int, int]], vdso: int) -> tuple[list[tuple[int, int, int]], tuple[int, int]]:
    """What of the zygote, whose vDSO is at `vdso`, moves where, and the vDSO's new place."""
    if not own or not vdso or own[-1][0] + own[-1][1] - own[0][0] > VDSO_SIZE:
        return [], (0, 0)
    first, shift = own[0][0], vdso - own[-1][0]
    moves = [(low + shift, length, VDSO_BASE + low - first) for low, length in own]
    return moves, (moves[-1][2], moves[-1][1])


def check_host() -> None:
    """Refuse with a clear message what cannot work."""
    release = os.uname().release.split(".")
    version = (int(release[0]), int("".join(c for c in release[1] if c.isdigit()) or "0"))
    if version < (5, 14):
        raise OSError(errno.ENOSYS, f"Linux 5.14 or later is needed, this is {os.uname().release}")
    if os.uname().machine != MACHINE.decode():
        raise OSError(
            errno.ENOSYS, f"this build is for {MACHINE.decode()}, the machine is {os.uname().machine}"
        )
    if not _native.has_fsgsbase():
        raise OSError(errno.ENOSYS, "the processor or kernel lacks FSGSBASE")


def raise_file_limit() -> None:
    """Every guest process costs the sentry two descriptors: use what the host allows."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
