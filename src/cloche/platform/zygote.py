"""The birth of a zygote: a host process with the stub and the filter, from which every guest process is forked.

The sentry sends the stub the system calls that it makes before it has the filter, with their data (`_Start`). If one
fails, the stub reports the number of the step.
"""

import errno
import os
import resource
import socket
import struct
from typing import Final

from cloche.abi.mman import MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, MREMAP_FIXED, MREMAP_MAYMOVE
from cloche.abi.poll import EPOLL_CTL_ADD, EPOLLIN
from cloche.abi.prctl import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
)
from cloche.abi.resource import RLIMIT_CORE, RLIMIT_NOFILE, RLIMIT_STACK
from cloche.abi.signal import (
    SA_NODEFER,
    SA_ONSTACK,
    SA_RESTORER,
    SA_SIGINFO,
    SIG_SETMASK,
    SIGBUS,
    SIGFPE,
    SIGILL,
    SIGKILL,
    SIGSEGV,
    SIGSYS,
    SIGTRAP,
)
from cloche.abi.structs import pack_epoll_event
from cloche.arch.machine import MACHINE
from cloche.arch.sigframe import FP_SIZE_OFFSET, FXSAVE_SIZE
from cloche.arch.syscalls import (
    SYS_capset,
    SYS_close_range,
    SYS_membarrier,
    SYS_mremap,
    SYS_munmap,
    SYS_prctl,
    SYS_prlimit64,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_setpgid,
    SYS_sigaltstack,
)
from cloche.platform import _native, hostsys
from cloche.platform import filter as seccomp_filter
from cloche.platform.deaths import Deaths
from cloche.platform.layout import (
    BOOT_DATA,
    DATA_OFFSET,
    END_ADDRESS,
    EV_PROCESS_DIED,
    FIRST_CPU_FD,
    FPPTR_OFFSET,
    FRAME_MAX,
    INFO_BASE,
    INFO_SIZE,
    INTERRUPT_SIGNAL,
    KVM_FD,
    MAX_CPU_FDS,
    MAX_FILTER,
    MAX_START_OPS,
    MIN_ADDRESS,
    REGION_BASE,
    REGION_SIZE,
    SLOT_SIZE,
    SLOT_SYSNO,
    SOCK_FD,
    STACK_OFFSET,
    STACK_SIZE,
    START_DATA_SIZE,
    STUB_BASE,
    STUB_SIZE,
    TAG_LISTENER,
    UC_OFFSET,
    VDSO_BASE,
    VDSO_SIZE,
)
from cloche.platform.systrap_process import new_region

_FILTER_NEW_LISTENER: Final = 1 << 3
_FILTER_WAIT_KILLABLE_RECV: Final = 1 << 5
_START_TIMEOUT_S: Final = 10.0
_STACK_BYTES: Final = 8 << 20
_FILES: Final = 1024
_CAPABILITIES: Final = 64  # more than there are
_CAPABILITY_HEADER: Final = struct.pack("<Ii", 0x20080522, 0)  # version 3, this thread
# The address range that is to be empty except for the platform's own areas, in order.
_OURS: Final = (
    (STUB_BASE, STUB_SIZE),
    (INFO_BASE, INFO_SIZE),
    (VDSO_BASE, VDSO_SIZE),
    (REGION_BASE, REGION_SIZE),
    (END_ADDRESS, 0),
)
_HANDLED: Final = (SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, INTERRUPT_SIGNAL)


class Zygote:
    """A zygote: its handles, and the place of the vDSO in it."""

    def __init__(self, deaths: Deaths) -> None:
        self._deaths = deaths
        self.process = -1
        self.thread = -1
        self.pid = -1
        self.listener = -1  # closed by the caller of `start`
        self.vdso = (0, 0)
        self._has_kvm = False

    def start(
        self,
        stub_fd: int,
        page_fd: int,
        epoll_fd: int,
        own_vdso: list[tuple[int, int]],
        *,
        is_strict: bool,
        kvm_fd: int = -1,
    ) -> None:
        """Execute the stub of `stub_fd`, and wait until it serves.  Raises OSError with a clear message.

        `kvm_fd` is of /dev/kvm, -1 where guests are to run without.
        """
        self._has_kvm = kvm_fd >= 0
        flags = _FILTER_NEW_LISTENER | _FILTER_WAIT_KILLABLE_RECV
        for _attempt in range(10):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            with ours, theirs:
                ours.settimeout(_START_TIMEOUT_S)
                region_fd = new_region()
                try:
                    process, thread, pid = _native.spawn(stub_fd, theirs.fileno(), page_fd, region_fd, kvm_fd)
                except OSError:
                    os.close(region_fd)
                    raise
                theirs.close()
                self._deaths.watch(process)
                where, error, listener = self._greet(ours, flags, own_vdso, is_strict)
            if where == 0:
                _native.attach(listener)
                self.listener = listener
                watched = pack_epoll_event(EPOLLIN, TAG_LISTENER)
                hostsys.epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, watched)
                self.process, self.thread, self.pid = process, thread, pid
                self._wait(region_fd)
                return
            self._abandon(process, thread, pid)
            if where == 9 and error == errno.EINVAL and flags & _FILTER_WAIT_KILLABLE_RECV:
                flags &= ~_FILTER_WAIT_KILLABLE_RECV  # Linux before 5.19
            elif where == 9 and error == errno.EBUSY:
                raise OSError(
                    errno.EBUSY,
                    "this host process already has a seccomp listener (LXD, or a sandbox around us): "
                    "the systrap platform cannot run here",
                )
            elif where == 12:
                raise OSError(error, f"--platform kvm: /dev/kvm is too weak or refuses: {os.strerror(error)}")
            elif where not in (5, 10, 11):
                raise OSError(error, f"the zygote failed to start (step {where}): {os.strerror(error)}")
        raise OSError(errno.EAGAIN, f"the zygote did not start (step {where}, errno {error})")

    def is_alive(self) -> bool:
        """Whether its memory is still there; asked when an unknown process has died."""
        try:
            hostsys.probe_memory(self.pid, STUB_BASE)
        except OSError:
            return False
        return True

    def _greet(
        self, sock: socket.socket, flags: int, own_vdso: list[tuple[int, int]], is_strict: bool
    ) -> tuple[int, int, int]:
        """Talk to a starting zygote: (0, 0, listener), or (the step that failed, errno, -1)."""
        try:
            hello = sock.recv(32)
            failed = _failure(hello)
            if failed is not None:
                return failed[0], failed[1], -1
            vdso, handler, restorer, _none = struct.unpack("<4q", hello)
            moves, self.vdso = _plan_vdso(own_vdso, vdso)
            start = _Start(self._has_kvm)
            start.bound()
            start.clear_memory(moves)
            start.handle_signals(handler, restorer)
            start.give_up_rights()
            program = seccomp_filter.build(not is_strict, is_kvm=self._has_kvm)
            words = [len(program), flags, *program, *[0] * (MAX_FILTER - len(program))]
            sock.send(start.packed() + struct.pack(f"<{len(words)}Q", *words))
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

    def _wait(self, region_fd: int) -> None:
        while True:
            event = self._deaths.next_event(int(_START_TIMEOUT_S * 1e9), [])
            if event is None or isinstance(event, int):
                raise OSError(errno.ETIMEDOUT, "the zygote does not answer")
            if event[0] == EV_PROCESS_DIED:
                raise OSError(errno.ECHILD, f"the zygote died (wait status {event[3]:#x})")
            if event[1] == self.thread:
                break
        frame, fp, fp_size = _frame_layout(os.pread(region_fd, SLOT_SIZE, 0))
        _native.take_pristine(self.thread, frame, fp, fp_size)
        try:
            hostsys.probe_memory(self.pid, STUB_BASE)
        except OSError as error:
            raise OSError(
                error.errno,
                "the host refuses process_vm_readv on our own children "
                f"(Yama's ptrace_scope, a seccomp profile?): {error.strerror}",
            ) from error

    def _abandon(self, process: int, thread: int, pid: int) -> None:
        _native.kill_process(process)
        while True:
            event = self._deaths.next_event(int(_START_TIMEOUT_S * 1e9), [])
            if event is None or isinstance(event, int):
                raise OSError(errno.ETIMEDOUT, f"the zygote {pid} does not die")
            if event[0] == EV_PROCESS_DIED:
                break
        self._deaths.unwatch(process)
        _native.discard_thread(thread)
        _native.discard_process(process)


class _Start:
    """The system calls that a starting zygote makes, in order, and what they point to (struct boot)."""

    def __init__(self, has_kvm: bool) -> None:
        self._has_kvm = has_kvm
        self._ops = bytearray()
        self._data = bytearray()

    def packed(self) -> bytes:
        """The beginning of a struct boot."""
        room = MAX_START_OPS * 64
        assert len(self._ops) <= room and len(self._data) <= START_DATA_SIZE
        head = struct.pack("<Q", len(self._ops) // 64) + self._ops.ljust(room, b"\0")
        return head + self._data.ljust(START_DATA_SIZE, b"\0")

    def _call(self, step: int, nr: int, *arguments: int) -> None:
        """Add a call. With step 0 it may fail; otherwise its failure ends the start, and is reported with that step."""
        six = [*arguments, 0, 0, 0, 0, 0, 0][:6]
        self._ops += struct.pack("<8Q", nr, *[value & (1 << 64) - 1 for value in six], step)

    def _point(self, data: bytes) -> int:
        """Where the data are, at a multiple of 8."""
        at = REGION_BASE + SLOT_SIZE + DATA_OFFSET + BOOT_DATA + len(self._data)
        self._data += data.ljust(len(data) + 7 & ~7, b"\0")
        return at

    def bound(self) -> None:
        """Set its process group, its parent-death signal (which a fork clears), its limits (which may be lower
        already), and close descriptors.
        """
        self._call(0, SYS_setpgid, 0, 0)
        self._call(0, SYS_prctl, PR_SET_PDEATHSIG, SIGKILL)
        stack = resource.getrlimit(resource.RLIMIT_STACK)
        if not 0 <= stack[1] < _STACK_BYTES:  # no limit is -1
            stack = _STACK_BYTES, _STACK_BYTES
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        wanted = FIRST_CPU_FD + MAX_CPU_FDS if self._has_kvm else _FILES
        for kind, limits in (
            (RLIMIT_CORE, (1, 1)),
            (RLIMIT_STACK, stack),
            (RLIMIT_NOFILE, (min(files, wanted) if files >= 0 else wanted, files)),
        ):
            self._call(0, SYS_prlimit64, 0, kind, self._point(struct.pack("<2q", *limits)), 0)
        self._call(3, SYS_close_range, 0, SOCK_FD - 1, 0)
        first = SOCK_FD + 1
        if self._has_kvm:
            self._call(3, SYS_close_range, first, KVM_FD - 1, 0)
            first = KVM_FD + 1
        self._call(3, SYS_close_range, first, 0xFFFFFFFF, 0)

    def clear_memory(self, moves: list[tuple[int, int, int]]) -> None:
        """Unmap what the program loader has left: the old stack, and the vDSO's first place."""
        for old, length, new in moves:
            self._call(5, SYS_mremap, old, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, new)
        at = MIN_ADDRESS
        for start, length in _OURS:
            self._call(0, SYS_munmap, at, start - at)
            at = start + length

    def handle_signals(self, handler: int, restorer: int) -> None:
        """Install the stub's handler for all signals of faults and for the interrupt; none is blocked.

        With KVM they arrive in the loop, which has a stack of its own. The zygote raises SIGILL to find out where
        slots have their signal frames.
        """
        mask = ~(1 << SIGSEGV - 1 | 1 << SIGBUS - 1) & (1 << 64) - 1  # a copy's fault may come in the handler
        flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTORER
        action = self._point(struct.pack("<4Q", handler, flags, restorer, mask))
        in_loop = (
            self._point(struct.pack("<4Q", handler, flags & ~SA_ONSTACK, restorer, mask))
            if self._has_kvm
            else action
        )
        for signo in _HANDLED:
            self._call(6, SYS_rt_sigaction, signo, action if signo == SIGILL else in_loop, 0, 8)
        self._call(
            7, SYS_sigaltstack, self._point(struct.pack("<QQQ", REGION_BASE + STACK_OFFSET, 0, STACK_SIZE)), 0
        )
        self._call(0, SYS_rt_sigprocmask, SIG_SETMASK, self._point(bytes(8)), 0, 8)

    def give_up_rights(self) -> None:
        """Give up all capabilities, and set no_new_privs."""
        for capability in range(_CAPABILITIES):
            self._call(0, SYS_prctl, PR_CAPBSET_DROP, capability)
        self._call(0, SYS_capset, self._point(_CAPABILITY_HEADER), self._point(bytes(24)))
        self._call(0, SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
        self._call(8, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1)
        # Inherited by forks: guests' barriers are the sentry's (Platform.barrier).
        self._call(0, SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0)


def _frame_layout(slot: bytes) -> tuple[int, int, int]:
    """Where in the slot of a thread in its first event the signal frame is, and its FP state; how large that is."""
    frame: int = struct.unpack_from("<Q", slot, SLOT_SYSNO)[0]
    if not STACK_OFFSET <= frame <= SLOT_SIZE - 1024:
        raise OSError(errno.EPROTO, "the zygote's signal frame is not where it should be")
    fp: int = struct.unpack_from("<Q", slot, frame + UC_OFFSET + FPPTR_OFFSET)[0] - REGION_BASE
    if not frame <= fp <= SLOT_SIZE - FXSAVE_SIZE:
        raise OSError(errno.EPROTO, "the zygote's FP state is not where it should be")
    size: int = struct.unpack_from("<I", slot, fp + FP_SIZE_OFFSET)[0]
    if size < FXSAVE_SIZE + 68 or fp + size > SLOT_SIZE or SLOT_SIZE - frame > FRAME_MAX:
        raise OSError(errno.E2BIG, "the processor's state is too large for a slot")
    return frame, fp, size


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
    """The moves of the zygote's vDSO areas (its vDSO is at `vdso`), and the vDSO's new place."""
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
    if not _native.features()[0]:
        raise OSError(errno.ENOSYS, "the processor or kernel lacks FSGSBASE")


def raise_file_limit() -> None:
    """Every guest process costs the sentry two descriptors: use what the host allows."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
