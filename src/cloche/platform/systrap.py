"""The `systrap` platform: guest threads are host threads that stop in a SIGSYS handler.

Owns the zygote, the pool of blank processes, and the handles `SystrapProcess` and `SystrapThread`.  May call
`_native` (the hand-off, notifications, guest memory) and `filter` (the seccomp program).

Order that callers keep, beyond interface.py:
- `start` once per host process: the seccomp listener and SIGCHLD are process-wide.  It blocks SIGCHLD.
- A deferred `HostThread.write` is seen by `HostProcess.read` and by the thread itself, but by *other* threads
  only when the thread runs again.  What others wait for (a futex word) goes through `HostProcess.write`.
- `HostProcess.write` acts at once: on an area whose mmap is still queued, use `HostThread.write` of the thread
  that maps it (delivered after its operations, in order, whatever the size).
- When a queued fork fails, EV_OPS_FAILED on the parent is the only event: discard the child's thread.  When
  the parent dies before the fork is adopted, EV_PROCESS_DIED comes for the child, too.
"""

import errno
import os
import resource
import signal
import socket
import struct
import time
from typing import Final

from cloche.abi.errno import EAGAIN, LinuxError
from cloche.abi.poll import EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
from cloche.abi.structs import pack_stat
from cloche.arch.machine import MACHINE
from cloche.platform import _native, hostsys
from cloche.platform import filter as seccomp_filter
from cloche.platform.interface import (
    ANSWERED,
    EV_FAULT,
    EV_FD,
    EV_HELD,
    EV_NONE,
    EV_PROCESS_DIED,
    EV_STARTED,
    EV_SYSCALL,
    PF_ARG,
    Event,
    HostProcess,
    HostThread,
    Parking,
    Platform,
    Registers,
)

_FILTER_NEW_LISTENER: Final = 1 << 3
_FILTER_WAIT_KILLABLE_RECV: Final = 1 << 5

_ACT_POST: Final = 1  # shared.h
_ACT_ANSWER: Final = 2

_SHORT_LIFE_NS: Final = 5_000_000
_MAX_PARKED: Final = 16  # host threads of one process that wait for a task

_POOL_SIZE: Final = 2
_SENTRY_SPIN_NS: Final = 120_000
_STUB_SPIN_NS: Final = 50_000
_START_TIMEOUT_S: Final = 10.0
_OVERDUE_NS: Final = 10_000_000_000
_CALL_NS: Final = 800  # what the shortest system call takes
_TICK_NS: Final = 10_000_000  # of /proc (USER_HZ)
_MANY_PAGES: Final = 1 << 17  # of address space: no more than 1 MiB of page tables below that
_NO_EVENT: Final[Event] = (EV_NONE, -1, 0, 0, 0, 0, 0, 0, 0)


def _split(total_ns: int, user_ticks: int, ticks: int, user_ns: int, system_ns: int) -> tuple[int, int]:
    """User and system part of an exact sum in the ratio of the ticks; neither falls below what was told before.

    As cputime_adjust (kernel/sched/cputime.c).
    """
    user = total_ns * user_ticks // ticks if ticks else total_ns
    user = max(min(user, total_ns - system_ns), user_ns)
    return user, max(total_ns - user, system_ns)


class SystrapProcess(HostProcess):
    """A guest address space: one host process, or one that is about to be forked."""

    def __init__(self, platform: "Systrap", handle: int, ident: int) -> None:
        self.platform = platform
        self.handle = handle
        self._ident = ident
        self.thread_count = 0
        self.has_threads = False  # it had more than one at some time
        self.is_dead = False
        self.is_blank = False  # in the pool: nobody is told of its death
        self.was_blank = False  # nobody is told of its birth, unless he has asked
        self.is_awaited = False
        self._user_ns = 0  # CPU time as it was last told
        self._system_ns = 0
        self._told_user_ns = 0
        self._main: SystrapThread | None = None
        self.parked: list[
            tuple[int, int, int]
        ] = []  # host threads that wait for a task; CPU time they have had
        self.parking: Parking | None = None  # who counts them
        self.counted = 0  # of them

    def ident(self) -> int:
        return self._ident

    def set_main(self, thread: "SystrapThread | None") -> None:
        """Called once at creation."""
        self._main = thread

    def main_thread(self) -> "SystrapThread":
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

    def has_pending_ops(self) -> bool:
        return not self.is_dead and _native.has_pending_ops(self.handle)

    def host_pid(self) -> int:
        """Its process id on the host, -1 while it does not live.  For diagnosis."""
        return -1 if self.is_dead else _native.process_pid(self.handle)

    def rss_bytes(self) -> int:
        fields = self.platform.read_proc(self, "statm").split()
        return int(fields[1]) * 4096 if len(fields) > 1 else 0

    def anonymous_bytes(self) -> int:
        fields = self.platform.read_proc(self, "statm").split()
        return (int(fields[1]) - int(fields[2])) * 4096 if len(fields) > 2 else 0

    def footprint_bytes(self) -> tuple[int, int]:
        fields = self.platform.read_proc(self, "statm").split()
        if len(fields) < 3 or self.is_dead:
            return 0, 0
        size, resident, shared = int(fields[0]), int(fields[1]), int(fields[2])
        extra = _native.region_bytes(self.handle)
        if size >= _MANY_PAGES:  # its page tables may be larger than what they map
            extra += figure(self.platform.read_proc(self, "status"), "VmPTE") * 1024
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
        self._user_ns, self._system_ns = _split(total, user_ticks, ticks, self._user_ns, self._system_ns)
        # The host counts a stub that waits for its answer as user time: of each call some is the system's.
        waited_ns = min(_native.call_count(self.handle) * _CALL_NS, self._user_ns - self._told_user_ns)
        self._told_user_ns = self._user_ns - waited_ns
        return self._told_user_ns, self._user_ns + self._system_ns - self._told_user_ns

    def usage(self) -> tuple[int, int, int, int]:
        status = self.platform.read_proc(self, "status")
        minor, major = _faults(self.platform.read_proc(self, "stat"))
        return figure(status, "VmHWM") * 1024, minor, major, _preemptions(status)

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
            return False  # dead, and not yet reaped by us
        return True

    def kill(self) -> None:
        self.count_parked(0)
        if not self.is_dead:
            _native.kill_process(self.handle)

    def release_parked(self) -> None:
        handle = self.parked.pop(0)[0]  # the one that has waited longest; the last is the next to be used
        self.count_parked(len(self.parked))
        _native.unpark(handle)
        _native.queue_op(handle, seccomp_filter.SYS_EXIT, 0, 0, 0, 0, 0, 0, -1)
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


class SystrapThread(HostThread):
    """A guest thread: one host thread and its slot."""

    def __init__(self, process: SystrapProcess, handle: int) -> None:
        self._process = process
        self.handle = handle
        self.is_discarded = False
        self.is_renewed = False  # its host thread has been another's
        self._user_ns = 0  # CPU time as it was last told
        self._system_ns = 0
        self._user_before_ns = 0  # of the host thread, for tasks before this one
        self._system_before_ns = 0
        self._born_ns = time.monotonic_ns()
        process.thread_count += 1

    def ident(self) -> int:
        return self.handle

    def process(self) -> SystrapProcess:
        return self._process

    def regs(self) -> Registers:
        v = _native.get_regs(self.handle)
        r = Registers()
        r.r8, r.r9, r.r10, r.r11 = v[0], v[1], v[2], v[3]
        r.r12, r.r13, r.r14, r.r15 = v[4], v[5], v[6], v[7]
        r.rdi, r.rsi, r.rbp, r.rbx = v[8], v[9], v[10], v[11]
        r.rdx, r.rax, r.rcx, r.rsp = v[12], v[13], v[14], v[15]
        r.rip, r.eflags, r.fs_base, r.gs_base = v[16], v[17], v[18], v[19]
        return r

    def set_regs(self, regs: Registers) -> None:
        r = regs
        _native.set_regs(
            self.handle, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx,
            r.rdx, r.rax, r.rcx, r.rsp, r.rip, r.eflags, r.fs_base, r.gs_base,
        )  # fmt: skip

    def fpstate(self) -> bytes:
        return _native.get_fpstate(self.handle)

    def set_fpstate(self, state: bytes) -> bool:
        return _native.set_fpstate(self.handle, state)

    def read(self, addr: int, length: int) -> bytes:
        return _native.read_thread(self.handle, addr, length)

    def read_cstring(self, addr: int, limit: int) -> bytes | None:
        return _native.read_cstring(self.handle, addr, limit)

    def write(self, addr: int, data: bytes) -> int:
        return _native.write_thread(self.handle, addr, data)

    def write_stat(
        self,
        addr: int,
        dev: int,
        ino: int,
        nlink: int,
        mode: int,
        uid: int,
        gid: int,
        rdev: int,
        size: int,
        blksize: int,
        blocks: int,
        atime_ns: int,
        mtime_ns: int,
        ctime_ns: int,
    ) -> bool:
        if (atime_ns | mtime_ns | ctime_ns) >> 62:  # before 1970, or far away
            data = pack_stat(
                dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks, atime_ns, mtime_ns, ctime_ns
            )
            return _native.write_thread(self.handle, addr, data) == len(data)
        return _native.write_stat(
            self.handle,
            addr,
            dev,
            ino,
            nlink,
            mode,
            uid,
            gid,
            rdev,
            size,
            blksize,
            blocks,
            atime_ns,
            mtime_ns,
            ctime_ns,
        )

    def write_now(self, addr: int, data: bytes) -> int:
        """Like `write`, but never deferred: the number of bytes written before a fault."""
        return self._process.write(addr, data)

    def read_fd_into(self, fd: int, offset: int, addr: int, length: int, flags: int, key: int) -> int:
        return _native.read_fd_into(self.handle, fd, offset, addr, length, flags, key)

    def write_fd_from(self, fd: int, offset: int, addr: int, length: int, flags: int) -> int:
        return _native.write_fd_from(self.handle, fd, offset, addr, length, flags)

    def queue_mmap(self, addr: int, length: int, prot: int, flags: int, fd: int, offset: int) -> None:
        _native.queue_op(
            self.handle, seccomp_filter.SYS_MMAP, addr, length, prot, flags, fd if fd < 0 else 0, offset, fd
        )

    def queue_munmap(self, addr: int, length: int) -> None:
        _native.queue_op(self.handle, seccomp_filter.SYS_MUNMAP, addr, length, 0, 0, 0, 0, -1)

    def queue_mprotect(self, addr: int, length: int, prot: int) -> None:
        _native.queue_op(self.handle, seccomp_filter.SYS_MPROTECT, addr, length, prot, 0, 0, 0, -1)

    def queue_mremap(self, old: int, old_length: int, new_length: int, flags: int, new: int) -> None:
        _native.queue_op(
            self.handle, seccomp_filter.SYS_MREMAP, old, old_length, new_length, flags, new, 0, -1
        )

    def queue_madvise(self, addr: int, length: int, advice: int) -> None:
        _native.queue_op(self.handle, seccomp_filter.SYS_MADVISE, addr, length, advice, 0, 0, 0, -1)

    def queue_keep_only(self, identities: list[int]) -> None:
        _native.queue_keep_only(self.handle, *identities)

    def queue_fork(self) -> SystrapProcess:
        platform = self._process.platform
        child = platform.make_process(self, _native.thread_slot(self.handle))
        try:
            _native.queue_fork(self.handle, child.handle, child.main_thread().handle, 0)
        except BaseException:
            child.main_thread().discard()
            raise
        return child

    def queue_clone_thread(self) -> "SystrapThread":
        process = self._process
        if process.parked:
            handle, user_ns, system_ns = process.parked[-1]
            _native.renew(handle, self.handle)
            process.parked.pop()
            process.count_parked(len(process.parked))
            thread = SystrapThread(process, handle)
            thread.is_renewed = True
            thread._user_before_ns, thread._system_before_ns = user_ns, system_ns
            process.platform.add_thread(thread)
            return thread
        try:
            handle = _native.new_thread(self._process.handle, -1, self.handle)
        except BlockingIOError as error:  # every slot of the process is taken
            raise LinuxError(EAGAIN) from error
        thread = SystrapThread(process, handle)
        process.has_threads = True
        process.platform.add_thread(thread)
        try:
            _native.queue_clone(self.handle, handle)
        except BaseException:
            thread.discard()
            raise
        return thread

    def cancel_clone(self, born: HostThread) -> None:
        assert isinstance(born, SystrapThread)
        _native.cancel_ops(self.handle)
        parking = born._process.parking
        if not (born.is_renewed and parking is not None and born.park(parking)):
            born.discard()

    def wait_long(self) -> None:
        _native.wait_long(self.handle)

    def park(self, parking: Parking) -> bool:
        """Instead of the host thread's exit: keep it for the next task.  False if that is not possible now."""
        process = self._process
        if process.is_dead or self.is_discarded or len(process.parked) >= _MAX_PARKED:
            return False
        if not _native.park(self.handle):
            return False
        used = (0, 0)
        if time.monotonic_ns() - self._born_ns > _SHORT_LIFE_NS:  # else there is little to forget
            used = self._host_times_ns()
        self.is_discarded = True
        process.platform.remove_thread(self)
        process.thread_count -= 1
        process.parked.append((self.handle, used[0], used[1]))
        process.parking = parking
        process.count_parked(len(process.parked))
        return True

    def queue_exit(self) -> None:
        _native.queue_op(self.handle, seccomp_filter.SYS_EXIT, 0, 0, 0, 0, 0, 0, -1)

    def ret(self, value: int) -> None:
        _native.ret(self.handle, value)

    def resume(self) -> None:
        _native.resume(self.handle)

    def run_ops(self) -> None:
        _native.run_ops(self.handle)

    def can_swap(self) -> bool:
        return True

    def swap(self, addr: int, old: int, new: int, operation: int = 0) -> None:
        _native.swap(self.handle, addr, old, new, operation)

    def swapped(self) -> int:
        return _native.swapped(self.handle)

    def has_frame(self) -> bool:
        return _native.has_frame(self.handle)

    def has_orders(self) -> bool:
        return _native.has_orders(self.handle)

    def stop(self, value: int) -> None:
        _native.stop(self.handle, value)

    def retry_with_frame(self) -> None:
        _native.retry_with_frame(self.handle)

    def forget_prefetched(self) -> None:
        _native.forget_prefetched(self.handle)

    def set_patched(self, is_on: bool) -> None:
        if not self.is_discarded:
            _native.set_patched(self.handle, is_on)

    def set_answers(self, is_valid: bool, values: list[int]) -> None:
        pid, tid, ppid, uid, euid, gid, egid = values if is_valid else (0, 0, 0, 0, 0, 0, 0)
        if not self.is_discarded:
            _native.set_answers(self.handle, is_valid, pid, tid, ppid, uid, euid, gid, egid)

    def interrupt(self) -> None:
        _native.interrupt(self.handle)

    def is_running(self) -> bool:
        return _native.is_running(self.handle)

    def cpu_times_ns(self) -> tuple[int, int]:
        user_ns, system_ns = self._host_times_ns()
        if user_ns < 0:
            return user_ns, system_ns
        return max(user_ns - self._user_before_ns, 0), max(system_ns - self._system_before_ns, 0)

    def _host_times_ns(self) -> tuple[int, int]:
        """Of several threads each one's own, from /proc: there the sum may lag by a tick while the thread runs."""
        process = self._process
        if not process.has_threads:
            self._user_ns, self._system_ns = process.cpu_times_ns()
            return self._user_ns, self._system_ns
        tid = _native.thread_tid(self.handle)
        if tid <= 0:
            return -1, -1
        stat = process.platform.read_proc(process, f"task/{tid}/stat").rpartition(")")[2].split()
        exact = process.platform.read_proc(process, f"task/{tid}/schedstat").split()
        if len(stat) < 13:
            return -1, -1
        user_ticks = int(stat[11])
        ticks = user_ticks + int(stat[12])
        total = int(exact[0]) if exact else ticks * _TICK_NS
        total = max(total, self._user_ns + self._system_ns)
        self._user_ns, self._system_ns = _split(total, user_ticks, ticks, self._user_ns, self._system_ns)
        return self._user_ns, self._system_ns

    def usage(self) -> tuple[int, int, int]:
        process = self._process
        tid = _native.thread_tid(self.handle)
        if tid <= 0:
            return 0, 0, 0
        minor, major = _faults(process.platform.read_proc(process, f"task/{tid}/stat"))
        return minor, major, _preemptions(process.platform.read_proc(process, f"task/{tid}/status"))

    def discard(self) -> None:
        if self.is_discarded:
            return
        self.is_discarded = True
        platform = self._process.platform
        platform.remove_thread(self)
        _native.discard_thread(self.handle)
        self._process.thread_count -= 1
        platform.discard_if_done(self._process)


def _faults(stat: str) -> tuple[int, int]:
    """Minor and major faults out of a stat file."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[7]), int(fields[9])) if len(fields) > 9 else (0, 0)


def figure(status: str, name: str) -> int:
    """A number of /proc/PID/status, 0 if it is not there (a thread that has ended has no memory)."""
    _before, found, rest = status.partition(f"\n{name}:")
    words = rest.split(None, 1) if found else []
    return int(words[0]) if words and words[0].isdigit() else 0


def _preemptions(status: str) -> int:
    return figure(status, "nonvoluntary_ctxt_switches")


class Systrap(Platform):
    """The platform: one per host process at a time."""

    def __init__(self, mm: str = "strict", is_patching: bool = True) -> None:
        if mm not in ("strict", "direct"):
            raise ValueError("mm must be strict or direct")
        self._mm = mm
        self._is_patching = is_patching and _native.has_bmi2()
        self._threads: dict[int, SystrapThread] = {}
        self._processes: dict[int, SystrapProcess] = {}
        self._zygote = -1  # its thread
        self._zygote_process = -1
        self._is_zygote_idle = False
        self._is_short = False  # the pool is to be filled when there is time
        self._pool: list[SystrapProcess] = []  # ready to be handed out: forked, or ordered
        self._unordered: list[SystrapProcess] = []  # their fork waits for the zygote
        self._ordered: SystrapProcess | None = None  # being forked by the zygote
        self._deaths: list[Event] = []
        self._vdso = (0, 0)
        self._stub_fd = -1
        self._own_vdso: list[tuple[int, int]] = []
        self._is_started = False
        self._ticks_per_ns = 1.0
        self._stub_fd = -1
        self._proc_fd = -1
        self._has_proc = False

    def hot_identity(self, fd: int) -> tuple[int, int] | None:
        return _native.hot_identity(fd)

    def is_direct(self) -> bool:
        """Whether private anonymous memory is mapped without asking."""
        return self._mm == "direct"

    # ---- start ----

    def prepare(self) -> None:
        """Check the host and open what `start` needs of it: after that the caller may give up paths and rights."""
        _check_host()
        _raise_file_limit()
        stub = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stub.elf")
        self._stub_fd = os.open(stub, os.O_RDONLY | os.O_CLOEXEC)
        self._own_vdso = _own_vdso()
        try:
            self._proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            self._proc_fd = -1  # no vDSO for the guests, no resident sizes

    def swap_shared(self, fd: int, offset: int, old: int, new: int) -> int:
        return _native.swap_shared(fd, offset, old, new)

    def barrier(self) -> bool:
        return _native.barrier()

    def proc_fd(self) -> int:
        """The descriptor of the procfs, -1 if there is none: confinement must let files below it be read."""
        return self._proc_fd

    def stub_fd(self) -> int:
        """The stub's descriptor, after `prepare` and before `start`: Landlock must allow to execute it."""
        return self._stub_fd

    def start(self) -> None:
        if self._stub_fd < 0:
            self.prepare()
        self._has_proc = self._sees_itself_in_proc()
        hostsys.use_proc(self._proc_fd if self._has_proc else -1)
        if not self._has_proc:
            self._mm = "strict"  # descriptors to map cannot be made read-only
        _native.setup()
        _native.use_proc(self._proc_fd if self._has_proc else -1)
        _native.set_patching(self._is_patching)
        self._is_started = True
        try:
            began, tsc = time.perf_counter_ns(), _native.ticks_now()
            self._start_zygote(self._stub_fd)
            elapsed, passed = time.perf_counter_ns() - began, _native.ticks_now() - tsc
        except BaseException:
            self.shutdown()
            raise
        finally:
            os.close(self._stub_fd)
            self._stub_fd = -1
        per_ns = self._ticks_per_ns = passed / max(elapsed, 1)
        cpus = len(os.sched_getaffinity(0))
        sentry_ns, stub_ns = _SENTRY_SPIN_NS, _STUB_SPIN_NS if cpus > 1 else 0
        asked = os.environ.get("CLOCHE_SPIN_NS", "")  # to measure what spinning gains (bench/waiting.py)
        if asked.isdecimal():
            sentry_ns = stub_ns = int(asked)
        _native.set_spin(int(sentry_ns * per_ns), int(stub_ns * per_ns), cpus)
        self._refill()

    def _sees_itself_in_proc(self) -> bool:
        """Whether /proc counts processes as we do: it may belong to an outer pid namespace."""
        try:
            return os.readlink("self", dir_fd=self._proc_fd) == str(os.getpid())
        except (OSError, ValueError):
            return False

    def own_bytes(self) -> int:
        pages = self._own_pages()
        return (pages[1] - pages[2]) * 4096

    def own_data_bytes(self) -> int:
        return self._own_pages()[5] * 4096

    def _own_pages(self) -> list[int]:
        """/proc/self/statm: size, resident, shared, text, nothing, data and stack."""
        if not self._has_proc:
            return [0] * 7
        try:
            fd = os.open("self/statm", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc_fd)
        except OSError:
            return [0] * 7
        try:
            return [int(word) for word in os.read(fd, 256).split()]
        finally:
            os.close(fd)

    def read_proc(self, process: SystrapProcess, name: str) -> str:
        """A file of /proc/PID of a guest's host process, "" when that cannot be read."""
        pid = process.host_pid()
        if pid < 0 or not self._has_proc:
            return ""
        try:
            fd = os.open(f"{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc_fd)
        except OSError:
            return ""
        try:
            return os.read(fd, 8192).decode("ascii", "replace")
        except OSError:
            return ""
        finally:
            os.close(fd)

    def _start_zygote(self, stub_fd: int) -> None:
        flags = _FILTER_NEW_LISTENER | _FILTER_WAIT_KILLABLE_RECV
        for _attempt in range(10):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            with ours, theirs:
                ours.settimeout(_START_TIMEOUT_S)
                process, thread, pid = _native.spawn(stub_fd, theirs.fileno(), self._proc_fd)
                theirs.close()
                where, error, listener = self._greet(ours, flags)
            if where == 0:
                _native.attach(listener, 1 if self._mm == "strict" else 0)
                self._zygote_process, self._zygote = process, thread
                self._wait_zygote()
                return
            self._abandon_zygote(process, thread, pid)
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

    def _greet(self, sock: socket.socket, flags: int) -> tuple[int, int, int]:
        """Talk to a starting zygote: (0, 0, listener), or (the step that failed, errno, -1)."""
        try:
            hello = sock.recv(16)
            failed = _failure(hello)
            if failed is not None:
                return failed[0], failed[1], -1
            moves, self._vdso = _plan_vdso(self._own_vdso, struct.unpack("<q", hello[:8])[0])
            program = seccomp_filter.build(self._mm == "direct")
            flat = [word for move in moves for word in move] + [0] * (3 * (_native.MAX_MOVES - len(moves)))
            padding = [0] * (_native.MAX_FILTER - len(program))
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

    def _abandon_zygote(self, process: int, thread: int, pid: int) -> None:
        _native.kill_process(process)
        while True:
            event = _native.wait_event(int(_START_TIMEOUT_S * 1e9), -1)
            if event is None:
                raise OSError(errno.ETIMEDOUT, f"the zygote {pid} does not die")
            if event[0] == EV_PROCESS_DIED:
                break
        _native.discard_thread(thread)
        _native.discard_process(process)

    def _wait_zygote(self) -> None:
        while True:
            event = _native.wait_event(int(_START_TIMEOUT_S * 1e9), -1)
            if event is None:
                raise OSError(errno.ETIMEDOUT, "the zygote does not answer")
            if event[0] == EV_PROCESS_DIED:
                raise OSError(errno.ECHILD, f"the zygote died (wait status {event[3]:#x})")
            if event[1] == self._zygote:
                break
        _native.take_pristine(self._zygote)
        error = _native.probe_memory(self._zygote_process)
        if error:
            raise OSError(
                error,
                "the host refuses process_vm_readv on our own children "
                f"(Yama's ptrace_scope, a seccomp profile?): {os.strerror(error)}",
            )
        self._is_zygote_idle = True

    # ---- processes ----

    def make_process(self, source: SystrapThread | None, slot: int) -> SystrapProcess:
        """A process that is yet to be forked, with its region and its stopped main thread."""
        handle, ident = _native.new_process()
        process = SystrapProcess(self, handle, ident)
        try:
            main = _native.new_thread(handle, slot, -1 if source is None else source.handle)
        except BaseException:
            _native.discard_process(handle)
            raise
        thread = SystrapThread(process, main)
        process.set_main(thread)
        self._processes[ident] = process
        self.add_thread(thread)
        return process

    def add_thread(self, thread: SystrapThread) -> None:
        self._threads[thread.handle] = thread

    def remove_thread(self, thread: SystrapThread) -> None:
        if self._threads.get(thread.handle) is thread:
            del self._threads[thread.handle]

    def discard_if_done(self, process: SystrapProcess) -> None:
        """Free the region of a process that has died (or never lived) and whose threads are all discarded."""
        if process.thread_count or not (process.is_dead or _native.process_pid(process.handle) < 0):
            return
        if _native.discard_process(process.handle):
            process.is_dead = True
            process.set_main(None)  # they would keep each other
            if process in self._unordered:
                self._unordered.remove(process)  # it has ended before its turn to be born came
            self._processes.pop(process.ident(), None)

    def _refill(self) -> None:
        while len(self._pool) < _POOL_SIZE:
            process = self.make_process(None, 0)
            process.is_blank = process.was_blank = True
            self._pool.append(process)
            self._unordered.append(process)
        self._order_fork()

    def _order_fork(self) -> None:
        """One fork at a time: an address space has one clone outstanding."""
        if not self._is_zygote_idle:
            return
        while self._unordered and self._unordered[0].main_thread().is_discarded:
            self._unordered.pop(0)
        if not self._unordered:
            return
        process = self._unordered.pop(0)
        _native.queue_fork(self._zygote, process.handle, process.main_thread().handle, 1)
        self._is_zygote_idle = False
        self._ordered = process
        _native.resume(self._zygote)

    def new_process(self) -> HostProcess:
        if self._zygote < 0:
            raise OSError(errno.ECHILD, "the zygote is gone")
        if not self._pool:
            self._refill()
        process = self._pool.pop(0)
        process.is_blank = False
        self._is_short = True  # whoever needs this one shall not wait for the next
        return process

    def thread(self, ident: int) -> HostThread:
        return self._threads[ident]

    def _fork_failed(self) -> None:
        """The zygote could not fork (EAGAIN, ENOMEM): the blank it was for will never live."""
        process = self._ordered
        self._ordered = None
        if process is not None:
            if process.is_blank:
                self._pool.remove(process)
                process.main_thread().discard()
            else:
                process.is_dead = True
                self._deaths.append((EV_PROCESS_DIED, -1, process.ident(), 9, 0, 0, 0, 0, 0))
        _native.resume(self._zygote)

    # ---- events ----

    def next_event(self, timeout_ns: int, deadline_ns: int = -1) -> Event:
        if timeout_ns > 0:
            deadline_ns = time.monotonic_ns() + timeout_ns
            timeout_ns = -1
        while True:
            if self._deaths:
                return self._deaths.pop(0)
            event = _native.wait_event(0 if self._is_short else timeout_ns, deadline_ns)
            if event is None:
                if not self._is_short:
                    return _NO_EVENT
                self._is_short = False  # nobody waits for us: make blank processes
                try:
                    self._refill()
                except OSError:
                    pass  # no descriptors or memory now: the next one that is taken tries again
                continue
            kind = event[0]
            if kind == EV_SYSCALL or kind == EV_FD:
                return event
            if kind == EV_HELD:
                passed_ns = int(event[4] / self._ticks_per_ns)
                return (kind, event[1], event[2], event[3], passed_ns, event[5], 0, 0, 0)
            if not self._is_internal(event):
                return event

    def _is_internal(self, event: Event) -> bool:
        """Deal with what concerns the zygote and the pool."""
        kind = event[0]
        if event[1] == self._zygote:
            if kind == EV_FAULT:
                self._is_zygote_idle = True
                self._order_fork()
            else:  # its fork failed (EAGAIN, ENOMEM): the blank will never live
                self._fork_failed()
            return True
        if kind == EV_STARTED:
            process = self._processes.get(event[2])
            return process is None or (process.was_blank and not process.is_awaited)
        if kind == EV_PROCESS_DIED:
            process = self._processes.get(event[2])
            if process is None:
                if event[2] == 1:
                    self._zygote = -1
                return True
            process.is_dead = True
            process.count_parked(0)
            if process.is_blank:
                self._pool.remove(process)
                process.main_thread().discard()
                return True
            self.discard_if_done(process)
        return False

    def overdue(self) -> list[HostProcess]:
        """Processes that owe an answer (to an interrupt, an operation or a fork) for too long: kill them."""
        idents = _native.overdue(_OVERDUE_NS)
        return [self._processes[i] for i in idents if i in self._processes]

    def set_prefetch(self, nr: int, descriptors: list[tuple[int, int, int, int, int]]) -> None:
        total = 0
        if len(descriptors) > 3:
            raise ValueError("at most three descriptors")
        for kind, _arg, _count, value, cap in descriptors:
            total += cap if kind == PF_ARG else value
        if total > _native.DATA_SIZE // 2 - 64:
            raise ValueError("too much to prefetch")
        for index in range(3):
            row = descriptors[index] if index < len(descriptors) else (0, 0, 0, 0, 0)
            kind, arg, count, value, cap = row
            _native.set_prefetch(nr, index, kind, arg, count, value, cap)

    def set_patched_calls(self, numbers: list[int]) -> None:
        for number in numbers:
            _native.set_action(number, _ACT_POST)
        for index, number in enumerate(ANSWERED):
            _native.set_action(number, _ACT_ANSWER + index)

    def is_patching(self) -> bool:
        """Whether calls from patched call sites come without a trap."""
        return self._is_patching

    def set_meter(self, wall_ns: int, cpu_ns: int) -> None:
        _native.set_meter(int(wall_ns * self._ticks_per_ns), cpu_ns)

    def add_fd(self, fd: int, token: int, events: int) -> None:
        _native.control_fd(EPOLL_CTL_ADD, fd, token, events)

    def modify_fd(self, fd: int, token: int, events: int) -> None:
        _native.control_fd(EPOLL_CTL_MOD, fd, token, events)

    def remove_fd(self, fd: int) -> None:
        _native.control_fd(EPOLL_CTL_DEL, fd, 0, 0)

    def min_address(self) -> int:
        return _native.MIN_ADDRESS

    def max_address(self) -> int:
        return _native.MAX_ADDRESS

    def vdso(self) -> tuple[int, int]:
        return self._vdso

    def shutdown(self) -> None:
        if not self._is_started:
            return
        self._is_started = False
        alive = 0
        for process in self._processes.values():
            if not process.is_dead and _native.process_pid(process.handle) > 0:
                alive += 1
            process.kill()
        if self._zygote >= 0:
            _native.kill_process(self._zygote_process)
            alive += 1
        deadline = time.monotonic() + 5
        while alive and time.monotonic() < deadline:
            event = _native.wait_event(1_000_000_000, -1)
            if event is not None and event[0] == EV_PROCESS_DIED:
                alive -= 1
        for process in self._processes.values():
            process.is_dead = True
        _native.close_all()
        if self._proc_fd >= 0:
            os.close(self._proc_fd)
            self._proc_fd = -1


def _failure(message: bytes) -> tuple[int, int] | None:
    """The (step, errno) that a starting zygote reports, None if it reports none."""
    if not message:
        return 11, errno.EPIPE
    if len(message) == 16:
        where, error = struct.unpack("<qq", message)
        if where < 0:
            return -where, -error
    return None


def _own_vdso() -> list[tuple[int, int]]:
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
    if not own or not vdso or own[-1][0] + own[-1][1] - own[0][0] > _native.VDSO_SIZE:
        return [], (0, 0)
    first, shift = own[0][0], vdso - own[-1][0]
    moves = [(low + shift, length, _native.VDSO_BASE + low - first) for low, length in own]
    return moves, (moves[-1][2], moves[-1][1])


def _check_host() -> None:
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


def _raise_file_limit() -> None:
    """Every guest process costs the sentry two descriptors: use what the host allows."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
