"""A guest's address space on `systrap`: a host process, or one that is about to be forked, and what it costs."""

import fcntl
import os
import signal
import time
from typing import Final

from cloche.abi.fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK
from cloche.arch.syscalls import SYS_exit
from cloche.platform import _native, slow
from cloche.platform.host_proc import HostProc, faults, figure, preemptions
from cloche.platform.interface import HostProcess, HostThread, Parking
from cloche.platform.kept import KeptFiles
from cloche.platform.layout import EXIT_REASONS, MAX_ADDRESS, REGION_SIZE, SLOT_EXITS, SLOT_SIZE

# bytes read of one file before it is worth a mapping (csrc/host/windows.c)
_WINDOW_MIN_TOTAL: Final = 256 << 10
_METERS: Final = 4
FIRST: Final = 0  # family
_CALL_NS: Final = 800  # the duration of the shortest system call
_MANY_PAGES: Final = 1 << 17  # pages of address space; smaller processes have at most 1 MiB of page tables


def new_region() -> int:
    """The memfd of the slots of a process that is to be: for C, which closes it with the process."""
    fd = os.memfd_create("cloche-region", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, REGION_SIZE)
        fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


def split_times(total_ns: int, user_ticks: int, ticks: int, user_ns: int, system_ns: int) -> tuple[int, int]:
    """User and system part of an exact sum in the ratio of the ticks; neither falls below its earlier value.

    As cputime_adjust (kernel/sched/cputime.c).
    """
    user = total_ns * user_ticks // ticks if ticks else total_ns
    user = max(min(user, total_ns - system_ns), user_ns)
    return user, max(total_ns - user, system_ns)


class Family:
    """The guest processes that the host accounts for together: those of a container of a pod.

    They are all forked from one zygote, and so are in its control groups; the family also holds the descriptors kept
    for them. The zygote of the first family is the platform's (`zygote`); that of another is a blank of the first
    that is used for nothing else.
    """

    def __init__(self, number: int, pool_size: int) -> None:
        self.number = number
        self.pool_size = pool_size
        self.thread = -1  # the zygote's; -1: it is gone
        self.process: SystrapProcess | None = None  # the zygote; None for the first family
        self.is_idle = False  # it can fork
        self.is_used = number == FIRST  # False: the zygote may still be moved to other control groups
        self.pool: list[SystrapProcess] = []  # ready to be handed out: forked, or ordered
        self.unordered: list[SystrapProcess] = []  # their fork waits for the zygote
        self.ordered: SystrapProcess | None = None  # being forked
        self.kept_files = KeptFiles()


# Bits of an entry of pagemap that reveal nothing about the host: soft-dirty, exclusively mapped, write-protected by
# userfaultfd, a guard region; a file's page or shared memory, swapped, present.
_SHOWN: Final = (1 << 55 | 1 << 56 | 1 << 57 | 1 << 58 | 1 << 61 | 1 << 62 | 1 << 63).to_bytes(8, "little")
_OF_FILES: Final = (1 << 61).to_bytes(8, "little")


class SystrapProcess(HostProcess):
    """A guest address space: one host process, or one that is about to be forked."""

    def __init__(self, proc: HostProc, region_fd: int, handle: int, ident: int, family: Family) -> None:
        self._proc = proc
        self.family = family
        self._region_fd = region_fd  # which C closes when the process is discarded
        self.handle = handle
        self._ident = ident
        self.thread_count = 0
        self.was_counted = False  # its returns were added to Guests.returns
        self.has_threads = False  # it had more than one at some time
        self.is_dead = False
        self.is_blank = False  # in the pool: its death is not reported
        self.was_blank = False  # its start is not reported unless that was asked for
        self.is_awaited = False
        self._user_ns = 0  # CPU time as it was last told
        self._system_ns = 0
        self._told_user_ns = 0
        self._main: HostThread | None = None
        # Host threads that wait for a task; CPU time they have had
        self.parked: list[tuple[int, int, int]] = []
        self.parking: Parking | None = None  # counts the parked threads
        self.counted = 0  # of them
        self.meters: dict[int, int] = {}  # bytes read, by file
        self.much_read: int = 0  # the file that was last found to be read a lot

    def ident(self) -> int:
        return self._ident

    def reads_much(self, key: int, length: int) -> bool:
        """Count what the process reads of a file: whether that is a lot."""
        total = self.meters.get(key, 0)
        if total >= _WINDOW_MIN_TOTAL:
            self.much_read = key
            return True
        if not total and len(self.meters) == _METERS:
            del self.meters[next(iter(self.meters))]  # the oldest
        self.meters[key] = total + length
        return total + length >= _WINDOW_MIN_TOTAL

    def set_main(self, thread: HostThread | None) -> None:
        """Called once at creation."""
        self._main = thread

    def main_thread(self) -> HostThread:
        assert self._main is not None
        return self._main

    def is_unborn(self) -> bool:
        if self.is_dead or _native.process_pid(self.handle) >= 0:
            return False
        self.is_awaited = True
        return True

    def read(self, addr: int, length: int) -> bytes:
        return b"" if self.is_dead else _native.read_process(self.handle, addr, length)

    def write(self, addr: int, data: bytes) -> int:
        return 0 if self.is_dead else _native.write_process(self.handle, addr, data)

    def page_map(self, addr: int, count: int) -> bytes:
        guests = max(min(count, (MAX_ADDRESS - addr) >> 12), 0)
        raw = self._proc.read_at(self.host_pid(), "pagemap", addr >> 9, guests * 8) if guests else b""
        entries = len(raw) // 8
        shown = int.from_bytes(raw, "little") & int.from_bytes(_SHOWN * entries, "little")
        # Whether a file's page is mapped exclusively would reveal other processes of the host.
        shown &= ~((shown & int.from_bytes(_OF_FILES * entries, "little")) >> 5)
        found = shown.to_bytes(len(raw), "little")
        # Addresses above belong to the platform, and are shown as empty.
        return found if len(raw) < guests * 8 else found + bytes((count - guests) * 8)

    def touch(self, thread: int, addr: int, length: int) -> None:
        pid = self.host_pid()
        if pid > 0 and addr < MAX_ADDRESS and length <= MAX_ADDRESS - addr:
            slow.touch(thread, pid, addr, length)

    def has_pending_ops(self) -> bool:
        return not self.is_dead and _native.has_pending_ops(self.handle)

    def host_pid(self) -> int:
        """Its process id on the host, -1 while it does not live.  For diagnosis."""
        return -1 if self.is_dead else _native.process_pid(self.handle)

    def read_proc(self, name: str) -> str:
        """A file of /proc/PID of the host process, "" when that cannot be read."""
        return self._proc.read(self.host_pid(), name)

    def rss_bytes(self) -> int:
        fields = self.read_proc("statm").split()
        return int(fields[1]) * 4096 if len(fields) > 1 else 0

    def returns(self, slot: int) -> list[int]:
        """How often the virtual CPU of the slot's threads came back to the loop, by KVM's reason.

        The first: by a signal or an error.  All 0 but with the platform kvm.  A claim, for diagnosis.
        """
        data = os.pread(self._region_fd, 8 * EXIT_REASONS, slot * SLOT_SIZE + SLOT_EXITS)
        return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]

    def anonymous_bytes(self) -> int:
        fields = self.read_proc("statm").split()
        return (int(fields[1]) - int(fields[2])) * 4096 if len(fields) > 2 else 0

    def footprint_bytes(self) -> tuple[int, int]:
        fields = self.read_proc("statm").split()
        if len(fields) < 3 or self.is_dead:
            return 0, 0
        size, resident, shared = int(fields[0]), int(fields[1]), int(fields[2])
        extra = os.fstat(self._region_fd).st_blocks * 512  # a guest can fill it
        if size >= _MANY_PAGES:  # its page tables may be larger than what they map
            extra += figure(self.read_proc("status"), "VmPTE") * 1024
        return (resident - shared) * 4096 + extra, resident * 4096 + extra

    def cpu_times_ns(self) -> tuple[int, int]:
        pid = self.host_pid()
        if pid <= 0:
            return 0, 0
        try:
            # The clock ids of another process (posix-timers.h): no need for /proc.
            ticks = time.clock_gettime_ns(~pid << 3)  # user and system time by the clock tick
            user_ticks = time.clock_gettime_ns(~pid << 3 | 1)
            total = time.clock_gettime_ns(~pid << 3 | 2)  # exact, but only the sum
        except OSError:
            return 0, 0
        self._user_ns, self._system_ns = split_times(total, user_ticks, ticks, self._user_ns, self._system_ns)
        # The host counts the time in which a stub waits for an answer as user time: a part of each call is moved to
        # system time.
        waited_ns = min(_native.call_count(self.handle) * _CALL_NS, self._user_ns - self._told_user_ns)
        self._told_user_ns = self._user_ns - waited_ns
        return self._told_user_ns, self._user_ns + self._system_ns - self._told_user_ns

    def usage(self) -> tuple[int, int, int, int]:
        status = self.read_proc("status")
        minor, major = faults(self.read_proc("stat"))
        return figure(status, "VmHWM") * 1024, minor, major, preemptions(status)

    def peak_bytes(self) -> int:
        return figure(self.read_proc("status"), "VmHWM") * 1024

    def pause(self) -> bool:
        return self._signal(signal.SIGSTOP)

    def proceed(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, signo: int) -> bool:
        pid = self.host_pid()
        if pid <= 0:
            return False
        try:
            os.kill(pid, signo)
        except ProcessLookupError:
            return False  # dead, and not yet reaped by the sentry
        return True

    def kill(self) -> None:
        self.count_parked(0)
        if not self.is_dead:
            _native.kill_process(self.handle)

    def release_parked(self) -> None:
        handle = self.parked.pop(0)[0]  # the one that has waited longest; the last is the next to be used
        self.count_parked(len(self.parked))
        _native.unpark(handle)
        _native.queue_op(handle, SYS_exit, 0, 0, 0, 0, 0, 0, 0, -1, 1)
        _native.resume(handle)
        _native.discard_thread(handle)

    def count_parked(self, count: int) -> None:
        """Tell `parking` how many host threads wait now."""
        parking = self.parking
        if parking is None:
            return
        parking.count += count - self.counted
        self.counted = count
        if count:
            parking.processes[self._ident] = self
        else:
            parking.processes.pop(self._ident, None)
