"""Guest threads on `systrap`, each a host thread and its slot; and the list of all threads and processes.

Order that callers keep, beyond interface.py:
- A deferred `HostThread.write` is seen by `HostProcess.read` and by the thread itself, but by *other* threads
  only when the thread runs again.  What others wait for (a futex word) goes through `HostProcess.write`.
- `HostProcess.write` acts at once: on an area whose mmap is still queued, use `HostThread.write` of the thread
  that maps it (delivered after its operations, in order, whatever the size).
"""

import os
import time
from typing import Final

from cloche.abi.errno import EAGAIN, EFAULT, LinuxError
from cloche.abi.mman import PROT_EXEC, PROT_READ
from cloche.abi.structs import pack_stat
from cloche.arch.sigframe import can_be_loaded
from cloche.arch.syscalls import SYS_exit, SYS_madvise, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_munmap
from cloche.platform import _native, slow
from cloche.platform.filter import passes
from cloche.platform.host_proc import HostProc, faults, preemptions
from cloche.platform.interface import (
    EV_INTERRUPTED,
    EV_LEFT,
    EV_OPS_DONE,
    Event,
    HostThread,
    Parking,
    Registers,
    swap_masks,
)
from cloche.platform.kept import may_stay
from cloche.platform.layout import SLOW_STORAGE
from cloche.platform.systrap_process import Family, SystrapProcess, new_region, split_times

# The functions that calls use most, bound once: looking up a function of an extension module takes a tenth of a short
# call.
_ret: Final = _native.ret
_read_thread: Final = _native.read_thread
_write_thread: Final = _native.write_thread
_read_fd_into: Final = _native.read_fd_into
_write_fd_from: Final = _native.write_fd_from
_write_stat: Final = _native.write_stat
_read_prefetched: Final = _native.read_prefetched
_wait_long: Final = _native.wait_long
_has_orders: Final = _native.has_orders
_resume: Final = _native.resume

_WINDOW_MIN_READ: Final = 2048
_SHORT_LIFE_NS: Final = 5_000_000
_MAX_PARKED: Final = 16  # host threads of one process that wait for a task
_FAULTED: Final = (1 << 64) - EFAULT  # in rax
_PIECE: Final = 1 << 20  # of a write that may take long
# only the first slots of a process are counted, so that figures for diagnosis are cheap
_COUNTED_SLOTS: Final = 16
_TICK_NS: Final = 10_000_000  # of /proc (USER_HZ)


class Guests:
    """Every process and thread that a platform has."""

    def __init__(self, proc: HostProc) -> None:
        self._proc = proc
        self.threads: dict[int, SystrapThread] = {}  # by handle
        self.returns: list[int] = []  # SystrapProcess.returns, of all together; empty: there are none
        self.calls = 0  # system calls, of all together
        self.processes: dict[int, SystrapProcess] = {}  # by ident
        self.is_short = False  # the pools, and `_spare`, are to be filled when the sentry is idle
        # The region, handle and ident of the next process, made when the sentry was idle
        self._spare: tuple[int, int, int] | None = None
        self.is_direct = False
        self.is_patching = False  # threads may call without a trap
        self.has_no_execution = False  # guests' memory is executable in their machines only (kvm.py)
        self.first_fpstate = b""  # what a thread begins with

    def make_process(self, source: "SystrapThread | None", family: Family) -> "SystrapThread":
        """The stopped main thread, with its region, of a process that is yet to be forked."""
        self.is_short = True
        region_fd, handle, ident = self._new_process() if self._spare is None else self._spare
        self._spare = None
        process = SystrapProcess(self._proc, region_fd, handle, ident, family)
        try:
            main = _native.new_thread(handle, -1 if source is None else source.handle)
        except BaseException:
            _native.discard_process(handle)
            raise
        if source is None:
            _native.set_patched(main, self.is_patching)
        thread = SystrapThread(self, process, main)
        process.set_main(thread)
        self.processes[ident] = process
        self.add_thread(thread)
        return thread

    def make_spare(self) -> None:
        if self._spare is None:
            self._spare = self._new_process()

    def _new_process(self) -> tuple[int, int, int]:
        """A region, its process's handle, and its ident."""
        fd = new_region()
        try:
            handle, ident = _native.new_process(fd)
        except OSError:
            os.close(fd)
            raise
        return fd, handle, ident

    def forget(self) -> None:
        """Forget all threads and processes."""
        self._spare = None

    def add_thread(self, thread: "SystrapThread") -> None:
        self.threads[thread.handle] = thread

    def remove_thread(self, thread: "SystrapThread") -> None:
        if self.threads.get(thread.handle) is thread:
            del self.threads[thread.handle]

    def count_returns(self, process: SystrapProcess) -> None:
        """Once for each, before its region goes: its calls, and with the platform kvm what returns says."""
        if process.was_counted:
            return
        process.was_counted = True
        self.calls += _native.call_count(process.handle)
        for slot in range(_COUNTED_SLOTS if self.returns else 0):
            for reason, count in enumerate(process.returns(slot)):
                self.returns[reason] += count

    def discard_if_done(self, process: SystrapProcess) -> None:
        """Free the region of a process that has died (or never lived) and whose threads are all discarded."""
        if process.thread_count or not (process.is_dead or _native.process_pid(process.handle) < 0):
            return
        self.count_returns(process)
        if _native.discard_process(process.handle):
            process.is_dead = True
            process.set_main(None)  # the two refer to each other, which would keep both in memory
            unordered = process.family.unordered
            if process in unordered:
                unordered.remove(process)  # it has ended before its turn to be born came
            self.processes.pop(process.ident(), None)


class SystrapThread(HostThread):
    """A guest thread: one host thread and its slot."""

    def __init__(self, guests: Guests, process: SystrapProcess, handle: int) -> None:
        self._guests = guests
        self._process = process
        self.handle = handle
        self.is_discarded = False
        self.is_renewed = False  # its host thread has been another's
        self._is_leaving = False  # EV_LEFT is owed
        self._left_with = 0
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
        return Registers(_native.get_regs(self.handle))

    def set_regs(self, regs: Registers) -> None:
        _native.set_regs(self.handle, regs.raw)

    def fpstate(self) -> bytes:
        return _native.get_fpstate(self.handle)

    def set_fpstate(self, state: bytes) -> bool:
        first = self._guests.first_fpstate
        if state and not can_be_loaded(state, first):
            return False
        _native.set_fpstate(self.handle, state or first)
        return True

    def read(self, addr: int, length: int) -> bytes:
        return _read_thread(self.handle, addr, length)

    def read_cstring(self, addr: int, limit: int) -> bytes | None:
        found = _read_prefetched(self.handle, addr, limit)
        if found is not None:
            return found
        string = b""
        while len(string) < limit:  # a page at a time: the next may not exist
            want = min(4096 - (addr & 4095), limit - len(string))
            part = _native.read_process(self._process.handle, addr, want)
            if not part:
                return None
            end = part.find(0)
            if end >= 0:
                return string + part[:end]
            string += part
            addr += len(part)
        return string

    def write(self, addr: int, data: bytes) -> int:
        return _write_thread(self.handle, addr, data)

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
            return _write_thread(self.handle, addr, data) == len(data)
        return _write_stat(
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

    def read_fd_into(self, fd: int, offset: int, addr: int, length: int, flags: int, key: int) -> int:
        if key and (
            length < _WINDOW_MIN_READ
            or (key != self._process.much_read and not self._process.reads_much(key, length))
        ):
            key = 0
        return _read_fd_into(self.handle, fd, offset, addr, length, flags, key)

    def write_fd_from(self, fd: int, offset: int, addr: int, length: int, flags: int) -> int:
        if flags & SLOW_STORAGE:
            return self._write_slowly(fd, offset, addr, length, flags & ~SLOW_STORAGE)
        return _write_fd_from(self.handle, fd, offset, addr, length, flags)

    def _write_slowly(self, fd: int, offset: int, addr: int, length: int, flags: int) -> int:
        """Write while other tasks may run: the slot and the guest's memory are not used meanwhile."""
        done = 0
        while True:
            want = min(length - done, _PIECE)
            data = _read_thread(self.handle, addr + done, want)
            put = -EFAULT
            if data or not want:
                put = slow.write(self.handle, fd, data, offset + done if offset >= 0 else -1, flags)
            if put < 0:
                return done or put
            done += put
            if put < want or done == length:
                return done

    def queue_mmap(self, addr: int, length: int, prot: int, flags: int, fd: int, offset: int) -> None:
        if fd >= 0 and self._guests.is_direct and may_stay(addr, length, prot, flags):
            kept = self._process.family.kept_files.number(self.handle, fd)
            if kept >= 0:
                self._queue(SYS_mmap, addr, length, prot, flags, kept, offset)
                return
        if fd < 0:
            self._queue(SYS_mmap, addr, length, prot, flags, fd, offset)
        else:
            _native.queue_op(
                self.handle, SYS_mmap, addr, length, self._host_prot(prot), flags, -1, offset, prot, fd, 1
            )

    def _queue(self, nr: int, a: int, b: int, c: int, d: int, e: int, f: int) -> None:
        """An operation that brings no descriptor."""
        asks = not (self._guests.is_direct and passes(nr, a, b, c, d, e))
        host_c = self._host_prot(c) if nr == SYS_mmap or nr == SYS_mprotect else c
        _native.queue_op(self.handle, nr, a, b, host_c, d, e, f, c, -1, asks)

    def _host_prot(self, prot: int) -> int:
        """The rights on the host of memory with these; its operation's `extra` says what was asked for."""
        if self._guests.has_no_execution and prot & PROT_EXEC:
            return prot & ~PROT_EXEC | PROT_READ
        return prot

    def queue_munmap(self, addr: int, length: int) -> None:
        self._queue(SYS_munmap, addr, length, 0, 0, 0, 0)

    def queue_mprotect(self, addr: int, length: int, prot: int) -> None:
        self._queue(SYS_mprotect, addr, length, prot, 0, 0, 0)

    def queue_mremap(self, old: int, old_length: int, new_length: int, flags: int, new: int) -> None:
        self._queue(SYS_mremap, old, old_length, new_length, flags, new, 0)

    def queue_madvise(self, addr: int, length: int, advice: int) -> None:
        self._queue(SYS_madvise, addr, length, advice, 0, 0, 0)

    def queue_keep_only(self, identities: list[int]) -> None:
        _native.queue_keep_only(self.handle, *identities)

    def queue_fork(self) -> SystrapProcess:
        main = self._guests.make_process(self, self._process.family)
        try:
            _native.queue_fork(self.handle, main.process().handle, main.handle, 0)
        except BaseException:
            main.discard()
            raise
        main.process().meters = self._process.meters.copy()  # it inherits the windows
        return main.process()

    def queue_clone_thread(self) -> "SystrapThread":
        process = self._process
        if process.parked:
            handle, user_ns, system_ns = process.parked[-1]
            _native.renew(handle, self.handle)
            process.parked.pop()
            process.count_parked(len(process.parked))
            thread = SystrapThread(self._guests, process, handle)
            thread.is_renewed = True
            thread._user_before_ns, thread._system_before_ns = user_ns, system_ns
            self._guests.add_thread(thread)
            return thread
        try:
            handle = _native.new_thread(self._process.handle, self.handle)
        except BlockingIOError as error:  # every slot of the process is taken
            raise LinuxError(EAGAIN) from error
        thread = SystrapThread(self._guests, process, handle)
        process.has_threads = True
        self._guests.add_thread(thread)
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
        _wait_long(self.handle)

    def park(self, parking: Parking) -> bool:
        """Keep the host thread for the next task instead of ending it. False if that is not possible now."""
        process = self._process
        if process.is_dead or self.is_discarded or len(process.parked) >= _MAX_PARKED:
            return False
        if not _native.park(self.handle):
            return False
        used = (0, 0)
        # a thread that lived only briefly has little state to reset
        if time.monotonic_ns() - self._born_ns > _SHORT_LIFE_NS:
            used = self._host_times_ns()
        self.is_discarded = True
        self._guests.remove_thread(self)
        process.thread_count -= 1
        process.parked.append((self.handle, used[0], used[1]))
        process.parking = parking
        process.count_parked(len(process.parked))
        return True

    def queue_exit(self) -> None:
        _native.queue_op(self.handle, SYS_exit, 0, 0, 0, 0, 0, 0, 0, -1, 1)

    def ret(self, value: int) -> None:
        _ret(self.handle, value)

    def resume(self) -> None:
        _resume(self.handle)

    def run_ops(self) -> None:
        _native.run_ops(self.handle)

    def can_swap(self) -> bool:
        return True

    def swap(self, addr: int, old: int, new: int, operation: int = 0) -> None:
        keep, add, flip = swap_masks(operation, new)
        _native.swap(self.handle, addr, old, operation != 0, keep, add, flip)

    def swapped(self) -> int:
        return _native.swapped(self.handle)

    def has_all_registers(self) -> bool:
        return _native.has_frame(self.handle)

    def has_orders(self) -> bool:
        return _has_orders(self.handle)

    def leave(self, value: int) -> bool:
        """A call that came without a signal frame has the stub make one, behind it."""
        if _native.has_frame(self.handle) and not _has_orders(self.handle):
            return True
        self._is_leaving, self._left_with = True, value
        _native.stop(self.handle, value)
        return False

    def leave_as_is(self) -> bool:
        if _native.has_frame(self.handle) and not _has_orders(self.handle):
            return True
        self._is_leaving, self._left_with = True, 0
        _native.run_ops(self.handle)
        return False

    def as_left(self, event: Event) -> Event:
        """The event to report to the kernel: EV_LEFT where the thread had to stop behind its call."""
        if not self._is_leaving:
            return event
        self._is_leaving = False
        if event[0] != EV_INTERRUPTED and event[0] != EV_OPS_DONE:
            return event
        result = self._left_with
        if result >= 0 and self.regs().rax == _FAULTED:
            result = -EFAULT  # while the stub copied the results
        return (EV_LEFT, event[1], result, 0, 0, 0, 0, 0, 0)

    def forget_prefetched(self) -> None:
        _native.forget_prefetched(self.handle)

    def set_patched(self, is_on: bool) -> None:
        if not self.is_discarded:
            _native.set_patched(self.handle, is_on and self._guests.is_patching)

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
        """The CPU times of this host thread; if the process has several, from /proc, where they may lag by a tick
        while the thread runs.
        """
        process = self._process
        if not process.has_threads:
            self._user_ns, self._system_ns = process.cpu_times_ns()
            return self._user_ns, self._system_ns
        tid = _native.thread_tid(self.handle)
        if tid <= 0:
            return -1, -1
        stat = process.read_proc(f"task/{tid}/stat").rpartition(")")[2].split()
        exact = process.read_proc(f"task/{tid}/schedstat").split()
        if len(stat) < 13:
            return -1, -1
        user_ticks = int(stat[11])
        ticks = user_ticks + int(stat[12])
        total = int(exact[0]) if exact else ticks * _TICK_NS
        total = max(total, self._user_ns + self._system_ns)
        self._user_ns, self._system_ns = split_times(total, user_ticks, ticks, self._user_ns, self._system_ns)
        return self._user_ns, self._system_ns

    def usage(self) -> tuple[int, int, int]:
        process = self._process
        tid = _native.thread_tid(self.handle)
        if tid <= 0:
            return 0, 0, 0
        minor, major = faults(process.read_proc(f"task/{tid}/stat"))
        return minor, major, preemptions(process.read_proc(f"task/{tid}/status"))

    def discard(self) -> None:
        if self.is_discarded:
            return
        self.is_discarded = True
        self._guests.remove_thread(self)
        _native.discard_thread(self.handle)
        self._process.thread_count -= 1
        self._guests.discard_if_done(self._process)
