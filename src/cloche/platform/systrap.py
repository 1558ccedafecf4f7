"""The `systrap` platform: guest threads are host threads that stop in a SIGSYS handler.

Owns the zygote and the pool of blank processes; sorts events.  The handles that it gives out are in
`systrap_process` and `systrap_thread`, with the order that their callers keep.  May call `_native` (the hand-off,
notifications, guest memory).

Order that callers keep, beyond interface.py:
- `start` once per host process: the seccomp listener and SIGCHLD are process-wide.  It blocks SIGCHLD.
- When a queued fork fails, EV_OPS_FAILED on the parent is the only event: discard the child's thread.  When
  the parent dies before the fork is adopted, EV_PROCESS_DIED comes for the child, too.
"""

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable
from typing import Final

from cloche.abi.fcntl import F_ADD_SEALS, F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK
from cloche.abi.mman import MEMBARRIER_CMD_GLOBAL_EXPEDITED
from cloche.abi.poll import EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET, EPOLLIN
from cloche.abi.structs import pack_epoll_event
from cloche.arch.sigframe import length_to_restore
from cloche.arch.syscalls import SYS_rt_sigreturn
from cloche.platform import _native, hostsys
from cloche.platform.collector import CollectorTime
from cloche.platform.deaths import Deaths, is_death
from cloche.platform.host_proc import HostProc
from cloche.platform.interface import (
    ANSWERED,
    EV_FAMILY_DIED,
    EV_FAULT,
    EV_FD,
    EV_PROCESS_DIED,
    EV_STALL,
    EV_STARTED,
    EV_SYSCALL,
    NO_EVENT,
    PF_ARG,
    Call,
    Event,
    HostNeeds,
    HostProcess,
    HostThread,
    Platform,
    PlatformDied,
)
from cloche.platform.layout import (
    A_MOMENT,
    ACT_ANSWER,
    ACT_POST,
    CALL_WORDS,
    DATA_SIZE,
    EV_OWING,
    EV_TOGETHER,
    INFO_ACTIONS,
    INFO_PREFETCH,
    INFO_SIZE,
    MAX_ADDRESS,
    MAX_CALLS,
    MAX_PREFETCH,
    MIN_ADDRESS,
    PF_FIXED,
    PF_NONE,
    PF_SP,
    PREFETCH_BYTES,
    TAG_SIGCHLD,
)
from cloche.platform.systrap_process import FIRST, Family, SystrapProcess
from cloche.platform.systrap_thread import Guests
from cloche.platform.zygote import Zygote, check_host, own_vdso_areas, raise_file_limit

_POOL_SIZE: Final = 2
_FURTHER_POOL_SIZE: Final = 1  # for each family but the first
_BIRTH_NS: Final = 1_000_000_000
_SENTRY_SPIN_NS: Final = 120_000
_STUB_SPIN_NS: Final = 50_000
_OVERDUE_NS: Final = 10_000_000_000
_LANE_PATIENCE_NS: Final = 1_000_000
_wait_event: Final = _native.wait_event  # bound once (systrap_thread.py)


def _leave_processor(cpu: int) -> None:
    """Move to another processor, if there is one; after that the scheduler is free to choose."""
    everywhere = os.sched_getaffinity(0)
    others = everywhere - {cpu}
    if others:
        os.sched_setaffinity(0, others)
        os.sched_setaffinity(0, everywhere)


def open_stub(name: str) -> int:
    """The program that guests' processes begin as, to be executed.  Raises OSError."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


class Systrap(Platform):
    """The platform: one per host process at a time."""

    def __init__(self, mm: str = "strict", is_patching: bool = True, stub_fd: int = -1) -> None:
        """`stub_fd`: of `open_stub`, taken over; -1: it is opened by `prepare`."""
        if mm not in ("strict", "direct"):
            raise ValueError("mm must be strict or direct")
        super().__init__()
        self._mm = mm
        self._is_patching = is_patching and _native.features()[1] != 0
        self._proc = HostProc()
        self._guests = Guests(self._proc)
        self._threads = self._guests.threads
        self._processes = self._guests.processes
        self._deaths = Deaths()
        self._zygote = Zygote(self._deaths)
        self._is_dead = False  # the zygote has died
        self._families: dict[int, Family] = {FIRST: Family(FIRST, _POOL_SIZE)}
        self._last_family = FIRST
        self._waiting: list[Event] = []  # events to be returned later
        self._own_vdso: list[tuple[int, int]] = []
        self._is_started = False
        self._ticks_per_ns = 1.0
        self._stub_fd = stub_fd
        self._score_fd = -1
        self._epoll_fd = -1
        self._fds: list[int] = []  # descriptors that C uses until the end
        self._stub_name = "stub.elf"
        self._kvm_fd = -1  # of /dev/kvm (kvm.py)
        self._info = memoryview(b"")  # the page that stubs read
        self._wall_limit_ticks = 0  # of set_meter; 0: it was never set
        self._cpu_limit_ns = 0  # 0: none
        self._cpu_left_ns = 0  # when the last event was given
        self._collector: CollectorTime = CollectorTime()
        self._gave_call = False  # that was a system call

    def hot_identity(self, fd: int, family: int = FIRST) -> tuple[int, int] | None:
        found = self._families.get(family)
        return None if found is None else found.kept_files.identity(fd)

    def is_direct(self) -> bool:
        """Whether private anonymous memory is mapped without asking."""
        return self._mm == "direct"

    # ---- start ----

    def prepare(self) -> HostNeeds:
        check_host()
        raise_file_limit()
        if self._stub_fd < 0:
            self._stub_fd = open_stub(self._stub_name)
        self._own_vdso = own_vdso_areas()
        self._proc.open()
        self._score_fd = self._proc.open_score()
        return HostNeeds([self._stub_fd], self._proc.fd())

    def swap_shared(self, fd: int, offset: int, old: int, new: int) -> int:
        return _native.swap_shared(fd, offset, old, new)

    def barrier(self) -> bool:
        return hostsys.membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED)  # the zygote has registered for it

    def start(self) -> None:
        if self._stub_fd < 0:
            self.prepare()
        if not self._proc.check():
            self._mm = "strict"  # descriptors to map cannot be made read-only
        self._guests.is_direct = self.is_direct()
        hostsys.use_proc(self._proc.usable_fd())
        self._info = self._set_up()
        _native.use_proc(self._proc.shown)
        self._guests.is_patching = self._is_patching
        _native.tell_calls_in(self.call, offset_of_words(self.call))
        self._is_started = True
        try:
            began, tsc = time.perf_counter_ns(), _native.ticks_now()
            self._guests.has_no_execution = self._kvm_fd >= 0
            self._start_zygote()
            first = self._families[FIRST]
            first.thread, first.is_idle = self._zygote.thread, True
            frame = length_to_restore(len(_native.get_fpstate(first.thread)))
            self.set_prefetch(SYS_rt_sigreturn, [(PF_FIXED, PF_SP, 0, frame, 0)])
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

    def _set_up(self) -> memoryview:
        """Give C what it waits with, and the page that stubs read."""
        page = os.memfd_create("cloche-info", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._fds.append(page)
        os.ftruncate(page, INFO_SIZE)
        self._epoll_fd = hostsys.epoll_create()
        self._fds.append(self._epoll_fd)
        deaths = self._deaths.open()
        self._fds.append(deaths)
        info = _native.setup(self._epoll_fd, page)
        # The sentry's mapping stays writable; mappings of guests can never become so.
        fcntl.fcntl(page, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)
        self._control(EPOLL_CTL_ADD, deaths, TAG_SIGCHLD, EPOLLIN | EPOLLET)
        return info

    def _start_zygote(self) -> None:
        """Start the zygote with the highest oom_score_adj, which guests inherit: when memory is short the host is to
        end a guest, not the sentry.
        """
        score_fd, before = self._score_fd, b""
        self._score_fd = -1
        try:
            if score_fd >= 0:
                before = os.pread(score_fd, 16, 0)
                os.pwrite(score_fd, b"1000", 0)
            page, epoll = self._fds[0], self._epoll_fd
            self._zygote.start(
                self._stub_fd,
                page,
                epoll,
                self._own_vdso,
                is_strict=not self.is_direct(),
                kvm_fd=self._kvm_fd,
            )
        finally:
            if score_fd >= 0:
                os.pwrite(score_fd, before, 0)
                os.close(score_fd)
        self._fds.append(self._zygote.listener)
        self._guests.first_fpstate = _native.get_fpstate(self._zygote.thread)

    def _control(self, operation: int, fd: int, data: int, events: int) -> None:
        hostsys.epoll_ctl(self._epoll_fd, operation, fd, pack_epoll_event(events, data))

    def own_bytes(self) -> int:
        pages = self._proc.own_pages()
        return (pages[1] - pages[2]) * 4096

    def own_data_bytes(self) -> int:
        return self._proc.own_pages()[5] * 4096

    # ---- processes ----

    def _refill(self) -> bool:
        """Work on the pools of blanks. Returns whether there was something to do."""
        is_short = False
        for family in self._families.values():
            if len(family.pool) < family.pool_size and family.thread >= 0 and family.is_used:
                is_short = True
                self._refill_one(family)
        return is_short

    def _refill_one(self, family: Family) -> None:
        while len(family.pool) < family.pool_size:
            process = self._guests.make_process(None, family).process()
            process.is_blank = process.was_blank = True
            family.pool.append(process)
            family.unordered.append(process)
        self._order_fork(family)

    def _order_fork(self, family: Family) -> None:
        """One fork at a time: an address space has one clone outstanding."""
        unordered = family.unordered
        if not family.is_idle:
            return
        while unordered and unordered[0].thread_count == 0:
            unordered.pop(0)
        if not unordered:
            return
        process = unordered.pop(0)
        if self.is_direct():
            family.kept_files.provide(family.thread)
        _native.queue_fork(family.thread, process.handle, process.main_thread().ident(), 1)
        family.is_idle = False
        family.ordered = process
        _native.resume(family.thread)

    def new_process(self, family: int = FIRST) -> HostProcess:
        self._check_alive()
        found = self._families.get(family)
        if found is None or found.thread < 0:
            raise OSError(errno.ECHILD, "the zygote is gone")
        return self._take_blank(found)

    def _check_alive(self) -> None:
        """Raise PlatformDied when the zygote has died, of which all others are forks."""
        if self._is_dead:
            raise PlatformDied("the zygote died")

    def _take_blank(self, family: Family) -> SystrapProcess:
        family.is_used = True
        if not family.pool:
            self._refill_one(family)
        process = family.pool.pop(0)
        process.is_blank = False
        self._guests.is_short = True  # fill the pool later: the caller needs this process now
        return process

    def _handles(self) -> list[int]:
        """Of all guests, for `Deaths`."""
        return [process.handle for process in self._processes.values()]

    def new_family(self) -> tuple[int, int]:
        self._check_alive()
        process = self._take_blank(self._families[FIRST])
        deadline = time.monotonic_ns() + _BIRTH_NS
        while process.host_pid() <= 0 and not process.is_dead:
            got = self._deaths.next_event(_BIRTH_NS, self._handles())
            event = self.call.event(got) if isinstance(got, int) else got
            if event is not None and (
                event[0] in (EV_SYSCALL, EV_FD, EV_STALL) or not self._is_internal(event)
            ):
                self._waiting.append(event)
            if time.monotonic_ns() > deadline:
                break
        if process.host_pid() <= 0:
            process.kill()
            raise OSError(errno.EAGAIN, "no further zygote")
        self._last_family += 1
        family = Family(self._last_family, _FURTHER_POOL_SIZE)
        family.process, family.thread, family.is_idle = process, process.main_thread().ident(), True
        process.family = family
        self._families[family.number] = family
        return family.number, process.host_pid()

    def drop_family(self, family: int) -> None:
        found = self._families.pop(family, None) if family != FIRST else None
        if found is None:
            return
        found.thread = -1
        found.kept_files.close()
        for process in list(found.unordered):
            found.pool.remove(process)
            process.main_thread().discard()
        found.unordered = []
        for process in found.pool:
            process.kill()
        if found.process is not None:
            found.process.kill()

    def thread(self, ident: int) -> HostThread:
        return self._threads[ident]

    def _fork_failed(self, family: Family) -> None:
        """The zygote could not fork (EAGAIN, ENOMEM): the blank that was to be forked is given up."""
        process = family.ordered
        family.ordered = None
        family.kept_files.forget_zygote()
        if process is not None:
            if process.is_blank:
                family.pool.remove(process)
                process.main_thread().discard()
            else:
                process.is_dead = True
                self._waiting.append((EV_PROCESS_DIED, -1, process.ident(), 9, 0, 0, 0, 0, 0))
        _native.resume(family.thread)

    # ---- events ----

    def next_event(self, timeout_ns: int, deadline_ns: int = -1) -> Event:
        thread = self.next_call(timeout_ns, deadline_ns)
        return self.event if thread < 0 else self.call.event(thread)

    def next_call(self, timeout_ns: int, deadline_ns: int = -1) -> int:
        if self._is_dead:
            self._check_alive()
        if timeout_ns > 0:
            deadline_ns = time.monotonic_ns() + timeout_ns
            timeout_ns = -1
        while True:
            is_due = self._deaths.is_due()
            if self._deaths.is_more or (is_due and not self._deaths.may_wait()):
                self._reap()
                is_due = False
            is_kept = len(self._waiting) > 0  # the internal ones were handled already
            got: int | Event | None = (
                self._waiting.pop(0)
                if is_kept
                else _wait_event(A_MOMENT if is_due or self._guests.is_short else timeout_ns, deadline_ns)
            )
            used_ns = self._used_ns() if self._cpu_limit_ns else -1
            if isinstance(got, int):
                self._gave_call = True
                return got
            if got is None:  # no guest waits
                if is_due:
                    self._reap()
                    continue
                if not self._guests.is_short:
                    self.event = NO_EVENT
                    self._gave_call = False
                    return -1
                try:  # make blanks, and if still none waits, prepare the next one
                    if self._refill():
                        continue
                    self._guests.make_spare()
                except OSError:
                    pass  # no descriptors or memory now: tried again when the next blank is taken
                self._guests.is_short = False
                continue
            event: Event = got
            kind = event[0]
            if kind == EV_SYSCALL:
                self.call.take(event)
                self._gave_call = True
                return event[1]
            if kind == EV_STALL:
                passed_ns = int(event[4] / self._ticks_per_ns)
                if 0 <= used_ns <= self._cpu_limit_ns:
                    continue
                before, number = (EV_SYSCALL, self.call.nr) if self._gave_call else self.event[0:3:2]
                event = (kind, event[1], before, number, passed_ns, used_ns, 0, 0, 0)
            elif kind == EV_FD:
                if is_death(event):
                    self._deaths.report()
                    continue
            else:
                if not is_kept and self._is_internal(event):
                    self._check_alive()
                    continue
                thread = self._threads.get(event[1])
                if thread is not None:
                    event = thread.as_left(event)
            self.event = event
            self._gave_call = False
            return -1

    def _used_ns(self) -> int:
        """The processor time used since the last event, if the meter counts it: time in which the sentry did not run
        is no stall, nor is a collection of cycles.
        """
        now_ns = time.thread_time_ns() - self._collector.used_ns
        used_ns = now_ns - self._cpu_left_ns
        self._cpu_left_ns = now_ns
        return used_ns

    def _reap(self) -> None:
        if self._deaths.reap():
            self._deaths.look_one_by_one(self._handles())

    def _end_silent(self) -> None:
        """End processes that have owed an exit, a proof or a child's first call for too long."""
        for process in self._processes.values():
            if process.is_dead or not _native.is_overdue(process.handle, _OVERDUE_NS, 0):
                continue
            if process.host_pid() > 0:
                _native.end_liar(process.handle)
            else:
                process.kill()  # its parent died before it made its first call

    def _is_internal(self, event: Event) -> bool:
        """Handle an event of a zygote or blank; returns whether it was one."""
        kind = event[0]
        for family in self._families.values():
            if event[1] != family.thread or family.thread < 0:
                continue  # -1: it is gone, and events of no thread have that, too
            if kind == EV_PROCESS_DIED:
                break
            if kind == EV_FAULT:
                family.is_idle = True
                self._order_fork(family)
            else:  # its fork failed (EAGAIN, ENOMEM): the blank will never live
                self._fork_failed(family)
            return True
        if kind == EV_TOGETHER:
            _leave_processor(event[2])
            return True
        if kind == EV_OWING:
            self._end_silent()
            return True
        if kind == EV_STARTED:
            process = self._processes.get(event[2])
            return process is None or (process.was_blank and not process.is_awaited)
        if kind == EV_PROCESS_DIED:
            process = self._processes.get(event[2])
            if process is None:
                first = self._families[FIRST]
                if first.thread >= 0 and not self._zygote.is_alive():
                    first.thread = -1
                    self._is_dead = True
                return True
            process.is_dead = True
            process.count_parked(0)
            family = process.family
            if process.is_blank:
                family.pool.remove(process)
                process.main_thread().discard()
                return True
            if family.process is process:
                family.thread = -1
                family.process = None
                process.main_thread().discard()
                self._waiting.append((EV_FAMILY_DIED, -1, family.number, 0, 0, 0, 0, 0, 0))
                return True
            self._guests.discard_if_done(process)
        return False

    def overdue(self) -> list[HostProcess]:
        """Processes that owe an answer (to an interrupt, an operation or a fork) for too long: kill them."""
        processes = self._processes.values()
        return [p for p in processes if not p.is_dead and _native.is_overdue(p.handle, _OVERDUE_NS, 1)]

    def set_prefetch(self, nr: int, descriptors: list[tuple[int, int, int, int, int]]) -> None:
        total = 0
        if len(descriptors) > MAX_PREFETCH or not 0 <= nr < MAX_CALLS:
            raise ValueError("too many descriptors, or no such call")
        for kind, _arg, _count, value, cap in descriptors:
            total += cap if kind == PF_ARG else value
        if total > DATA_SIZE // 2 - 64:
            raise ValueError("too much to prefetch")
        at = INFO_PREFETCH + nr * MAX_PREFETCH * PREFETCH_BYTES
        for index in range(MAX_PREFETCH):
            row = descriptors[index] if index < len(descriptors) else (PF_NONE, 0, 0, 0, 0)
            kind, arg, count, value, cap = row
            struct.pack_into(
                "<BBBBHH", self._info, at + index * PREFETCH_BYTES, kind, arg, count, 0, value, cap
            )

    def set_patched_calls(self, numbers: list[int]) -> None:
        for number in numbers:
            self._info[INFO_ACTIONS + number] = ACT_POST
        for index, number in enumerate(ANSWERED):
            self._info[INFO_ACTIONS + number] = ACT_ANSWER + index

    def is_patching(self) -> bool:
        return self._is_patching

    def open_lanes(self, bell_fd: int, came_back: Callable[[int], None]) -> bool:
        _native.open_lanes(bell_fd, int(_LANE_PATIENCE_NS * self._ticks_per_ns), came_back)
        return True

    def stand_by(self, *, is_new: bool = False) -> tuple[int, int]:
        return _native.stand_by(is_new)

    def leave_to_first(self) -> None:
        _native.leave_to_first()

    def lane_begins(self) -> None:
        if self._wall_limit_ticks:
            self._used_ns()
            _native.set_meter(self._wall_limit_ticks)

    def set_meter(self, wall_ns: int, cpu_ns: int) -> None:
        self._cpu_limit_ns = cpu_ns
        if cpu_ns:
            self._collector.install()
        self._wall_limit_ticks = int(wall_ns * self._ticks_per_ns)
        self.lane_begins()

    def add_fd(self, fd: int, token: int, events: int) -> None:
        self._control(EPOLL_CTL_ADD, fd, token, events)

    def modify_fd(self, fd: int, token: int, events: int) -> None:
        self._control(EPOLL_CTL_MOD, fd, token, events)

    def remove_fd(self, fd: int) -> None:
        self._control(EPOLL_CTL_DEL, fd, 0, 0)

    def min_address(self) -> int:
        return MIN_ADDRESS

    def max_address(self) -> int:
        return MAX_ADDRESS

    def summary(self) -> list[str]:
        for process in self._processes.values():
            self._guests.count_returns(process)
        notified = _native.counts()[4]
        return [
            f"{self._guests.calls} system calls of guests; {notified} notifications (operations, births, bells)"
        ]

    def vdso(self) -> tuple[int, int]:
        return self._zygote.vdso

    def shutdown(self) -> None:
        if not self._is_started:
            return
        self._is_started = False
        alive: set[int] = set()  # by ident; the zygote is -1
        for process in self._processes.values():
            if not process.is_dead and _native.process_pid(process.handle) > 0:
                alive.add(process.ident())
            process.kill()
        if self._families[FIRST].thread >= 0:
            _native.kill_process(self._zygote.process)
            alive.add(-1)
        handles = self._handles()
        deadline = time.monotonic() + 5
        while alive and time.monotonic() < deadline:
            event = self._deaths.next_event(1_000_000_000, handles)
            if event is not None and not isinstance(event, int) and event[0] == EV_PROCESS_DIED:
                alive.discard(event[2] if event[2] in self._processes else -1)
        for process in self._processes.values():
            process.is_dead = True
        self._info = memoryview(b"")
        self._guests.forget()
        _native.close_all()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._proc.close()


def offset_of_words(call: Call) -> int:
    """The address of the object's fields, if they are stored one after the other as C writes them (tell in loop.c);
    else 0.

    mypyc keeps a small integer shifted by one, another as the address of an object plus 1.
    """
    number = int("7A17C0DE5A17C0DE", 16)  # not a constant, of which there might be several
    marks = [0x5A17C0DE + place for place in range(CALL_WORDS - 1)]
    call.take((0, 0, marks[0], marks[1], marks[2], marks[3], marks[4], marks[5], number))
    words = [mark << 1 for mark in marks] + [id(number) | 1]
    at = _native.words_of(call).find(struct.pack(f"<{CALL_WORDS}Q", *words))
    return at if at > 0 and at % 8 == 0 else 0
