"""A platform in memory, for tests: `fake_cpu` executes the guests, one after the other, while events are waited for.

It lives here, not in the tests, because compiled traits take no interpreted implementation. It fulfils what
tests/unit/platform/test_conformance_*.py require of every platform; operations are carried out at once when their
thread is resumed.

Processes and threads can also be made by themselves, without a platform: then memory is there from address 0 on
(MEMORY_BYTES), and the threads never run.  What was asked of a thread is counted, for tests of what the kernel does.
A `FakeHost` gives processes and threads, and can be told to fail at its n-th step: for tests of the clean-up after
failures.
"""

import errno
import os
import select
import time
from collections import deque
from typing import Final

from cloche.abi.mman import MREMAP_FIXED, PROT_READ, PROT_WRITE
from cloche.arch.registers import Registers
from cloche.arch.sigframe import can_be_loaded
from cloche.platform.fake_cpu import FAULT, SYSCALL, FakeCpu, initial_fpstate
from cloche.platform.fake_memory import FakeMemory, HostFile
from cloche.platform.interface import (
    EV_FAULT,
    EV_FD,
    EV_INTERRUPTED,
    EV_LEFT,
    EV_NONE,
    EV_OPS_DONE,
    EV_OPS_FAILED,
    EV_PROCESS_DIED,
    EV_STARTED,
    EV_SYSCALL,
    Event,
    HostProcess,
    HostThread,
    Parking,
    Platform,
    swap_result,
)

MEMORY_BYTES: Final = 1 << 20
MAX_ADDRESS: Final = 0x7FFF_FFFF_F000
_SLICE: Final = 200  # instructions of a thread between two looks at the others
_M64: Final = (1 << 64) - 1
_MAP_ANON_FIXED: Final = 0x32

# States of a thread.
STOPPED: Final = 0
RUNNING: Final = 1
GONE: Final = 2

# Kinds of orders.
_MMAP: Final = 0
_MUNMAP: Final = 1
_MPROTECT: Final = 2
_MREMAP: Final = 3
_MADVISE: Final = 4
_FORK: Final = 5
_CLONE: Final = 6
_EXIT: Final = 7
_WRITE: Final = 8


class Order:
    """An operation that a thread carries out before it goes on."""

    def __init__(self, kind: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0) -> None:
        self.kind: int = kind
        self.a: int = a
        self.b: int = b
        self.c: int = c
        self.d: int = d
        self.e: int = e
        self.file: HostFile | None = None
        self.born: FakeThread | None = None
        self.data: bytes = b""

    def touches(self, addr: int, length: int) -> bool:
        """Whether it changes what is mapped in that range."""
        if self.kind > _MADVISE:
            return False
        if self.a < addr + length and addr < self.a + self.b:
            return True
        return self.kind == _MREMAP and self.e < addr + length and addr < self.e + self.c


class FakeHost:
    """The resources of the host: threads and processes in use, and the step at which it refuses."""

    def __init__(self, *, is_swapping: bool = False) -> None:
        self.fail_at: int = 0  # 0: never
        self.steps: int = 0
        self.threads: list[HostThread] = []
        self.processes: list[HostProcess] = []
        self.running: deque[FakeThread] = deque()
        # that belong to no thread, or to threads that stopped without running
        self.events: deque[Event] = deque()
        self.is_swapping: bool = is_swapping  # whether its threads have `swap`
        self._ident: int = 0

    def step(self) -> None:
        """A step that a host may refuse. Raises OSError at the chosen one."""
        self.steps += 1
        if self.steps == self.fail_at:
            raise OSError(errno.EMFILE, "no more")

    def next_ident(self) -> int:
        """A number that was not used before."""
        self._ident += 1
        return self._ident

    def new_process(self) -> "FakeProcess":
        """A blank process with its main thread."""
        process = FakeProcess(self, is_blank=True)
        process.main = FakeThread(process, self)
        self.processes.append(process)
        return process

    def report(
        self, kind: int, thread: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0
    ) -> None:
        """Queue an event."""
        self.events.append((kind, thread, a, b, c, d, e, 0, 0))


class FakeProcess(HostProcess):
    """An address space; unless it is blank, with MEMORY_BYTES from address 0 on."""

    def __init__(self, host: FakeHost | None = None, *, is_blank: bool = False) -> None:
        self.host: FakeHost = host if host is not None else FakeHost()
        self.main: FakeThread | None = None
        self.living: list[FakeThread] = []
        self.memory: FakeMemory = FakeMemory()
        self.rss: int = 0
        self.user_ns: int = 0
        self.system_ns: int = 0
        self.is_killed: bool = False
        self.is_dead: bool = False
        self.is_ordered: bool = False  # a fork that was not carried out yet
        self.is_paused: bool = False
        self._ident: int = id(self)
        if is_blank:
            self._ident = self.host.next_ident()
        else:
            self.memory.mmap(0, MEMORY_BYTES, PROT_READ | PROT_WRITE, _MAP_ANON_FIXED, None, 0)

    def ident(self) -> int:
        return self._ident

    def is_unborn(self) -> bool:
        return self.is_ordered and not self.is_dead

    def rss_bytes(self) -> int:
        return self.rss

    def cpu_times_ns(self) -> tuple[int, int]:
        return self.user_ns, self.system_ns

    def read(self, addr: int, length: int) -> bytes:
        return self.memory.read(addr, length) if 0 <= addr < MAX_ADDRESS and not self.is_dead else b""

    def write(self, addr: int, data: bytes) -> int:
        return self.memory.write(addr, data) if 0 <= addr < MAX_ADDRESS and not self.is_dead else 0

    def page_map(self, addr: int, count: int) -> bytes:
        pages = range(addr, addr + count * 4096, 4096)
        return b"".join([(1 << 63 if self.read(at, 1) else 0).to_bytes(8, "little") for at in pages])

    def has_pending_ops(self) -> bool:
        return False

    def main_thread(self) -> HostThread:
        assert self.main is not None
        return self.main

    def pause(self) -> bool:
        self.is_paused = not self.is_dead
        return self.is_paused

    def proceed(self) -> None:
        self.is_paused = False

    def kill(self) -> None:
        self.is_killed = True
        self.end(9)

    def end(self, status: int) -> None:
        """End the process; its death is reported once."""
        if self in self.host.processes:
            self.host.processes.remove(self)
        if self.is_dead:
            return
        self.is_dead = True
        for thread in self.living:
            thread.state = GONE
        self.living = []
        self.host.report(EV_PROCESS_DIED, -1, self._ident, status)


class FakeThread(HostThread):
    """A thread; host descriptors are read and written for real."""

    def __init__(self, process: FakeProcess, host: FakeHost | None = None) -> None:
        self._process: FakeProcess = process
        self.host: FakeHost = host if host is not None else FakeHost()
        self.host.threads.append(self)
        self._ident: int = self.host.next_ident() if host is not None else id(self)
        self.may_run: bool = host is not None and host is process.host
        self.state: int = STOPPED
        process.living.append(self)
        self.cpu: FakeCpu = FakeCpu()
        self.orders: list[Order] = []
        self.queued: int = 0  # operations since the last resume
        self.returned: list[int] = []  # what `ret` was given
        self.resumed: int = 0
        self.interrupts: int = 0
        self.is_interrupted: bool = False
        self.drops: int = 0  # orders to keep only some descriptors
        self.is_swapping: bool = self.host.is_swapping  # whether it has `swap`
        # values that other threads store in the word before each of its swaps
        self.meanwhile: list[bytes] = []
        self.found: int = -1

    def process(self) -> HostProcess:
        return self._process

    def ident(self) -> int:
        return self._ident

    # ---- memory ----

    def read(self, addr: int, length: int) -> bytes:
        return self._process.read(addr, length)

    def write(self, addr: int, data: bytes) -> int:
        if self._process.is_ordered or (
            self.may_run and any(order.touches(addr, len(data)) for order in self.orders)
        ):
            order = Order(_WRITE, addr)
            order.data = bytes(data)
            self.orders.append(order)
            return len(data)
        return self._process.write(addr, data)

    def read_cstring(self, addr: int, limit: int) -> bytes | None:
        data = self._process.read(addr, limit)
        end = data.find(b"\0")
        if end < 0:
            return data if len(data) == limit else None
        return data[:end]

    def read_fd_into(self, fd: int, offset: int, addr: int, length: int, flags: int, key: int) -> int:
        buffer = bytearray(length)
        try:
            if offset >= 0 or flags:
                count = os.preadv(fd, [buffer], offset, flags)
            else:
                count = os.readv(fd, [buffer])
        except OSError as error:
            return -(error.errno or errno.EIO)
        if not count:
            return 0
        return self.write(addr, bytes(buffer[:count])) or -errno.EFAULT

    def write_fd_from(self, fd: int, offset: int, addr: int, length: int, flags: int) -> int:
        data = self.read(addr, length)
        if length and not data:
            return -errno.EFAULT
        try:
            if offset >= 0 or flags:
                return os.pwritev(fd, [data], offset, flags)
            return os.write(fd, data)
        except OSError as error:
            return -(error.errno or errno.EIO)

    def can_swap(self) -> bool:
        return self.is_swapping

    def swap(self, addr: int, old: int, new: int, operation: int = 0) -> None:
        if self._carry_out():
            self._swap(addr, old, new, operation)
            self._stop_with(EV_OPS_DONE)

    def _swap(self, addr: int, old: int, new: int, operation: int) -> None:
        if self.meanwhile:
            self._process.write(addr, self.meanwhile.pop(0))
        data = self._process.read(addr, 4)
        self.found = int.from_bytes(data, "little") if len(data) == 4 else -1
        if operation and self.found >= 0:
            value = swap_result(operation, self.found, new)
        elif self.found == old:
            value = new
        else:
            return
        if self._process.write(addr, value.to_bytes(4, "little")) != 4:
            self.found = -1

    def swapped(self) -> int:
        return self.found

    # ---- operations ----

    def _queue(self, order: Order) -> None:
        ends = [(order.a, order.b), (order.e, order.c)] if order.kind == _MREMAP else [(order.a, order.b)]
        if order.kind <= _MADVISE:
            for addr, length in ends:
                if addr < 0 or length < 0 or addr + length > MAX_ADDRESS:
                    raise OSError(errno.EINVAL, "beyond the memory of guests")
        self.host.step()
        self.queued += 1
        self.orders.append(order)

    def queue_keep_only(self, identities: list[int]) -> None:
        self.drops += 1

    def queue_exit(self) -> None:
        self.orders.append(Order(_EXIT))

    def queue_mmap(self, addr: int, length: int, prot: int, flags: int, fd: int, offset: int) -> None:
        order = Order(_MMAP, addr, length, prot, flags, offset)
        if fd >= 0:
            order.file = HostFile(fd)
        self._queue(order)

    def queue_munmap(self, addr: int, length: int) -> None:
        self._queue(Order(_MUNMAP, addr, length))

    def queue_mprotect(self, addr: int, length: int, prot: int) -> None:
        self._queue(Order(_MPROTECT, addr, length, prot))

    def queue_mremap(self, old: int, old_length: int, new_length: int, flags: int, new: int) -> None:
        self._queue(Order(_MREMAP, old, old_length, new_length, flags, new if flags & MREMAP_FIXED else old))

    def queue_madvise(self, addr: int, length: int, advice: int) -> None:
        self._queue(Order(_MADVISE, addr, length, advice))

    def queue_fork(self) -> HostProcess:
        order = Order(_FORK)
        self._queue(order)
        process = self.host.new_process()
        process.is_ordered = True
        self._begin(order, process.main)
        return process

    def queue_clone_thread(self) -> HostThread:
        order = Order(_CLONE)
        self._queue(order)
        born = FakeThread(self._process, self.host)
        self._begin(order, born)
        return born

    def _begin(self, order: Order, born: "FakeThread | None") -> None:
        assert born is not None
        born.cpu = self.cpu.copy()
        born.cpu.r[0] = 0
        born.is_swapping = self.is_swapping
        born.may_run = self.may_run
        order.born = born

    def cancel_clone(self, born: HostThread) -> None:
        self.queued = 0
        self.orders = []
        process = born.process()
        if process is not self._process:
            assert isinstance(process, FakeProcess)
            process.is_dead = True  # its death is not reported yet
            process.kill()
        born.discard()

    def _carry_out(self) -> bool:
        """All that is ordered, in order; False if the thread stopped over it, or ends."""
        orders = self.orders
        self.orders, self.queued = [], 0
        if not self.may_run:
            return True
        index = 0
        for order in orders:
            if order.kind == _WRITE:
                continue
            failure = self._perform(order)
            if failure:
                self._stop_with(EV_OPS_FAILED, index, failure)
                return False
            index += 1
        for order in orders:
            if order.kind == _WRITE:
                self._perform(order)
        return self.state != GONE

    def _perform(self, order: Order) -> int:
        """One order; 0 or an errno."""
        kind, memory = order.kind, self._process.memory
        if kind == _MMAP:
            return memory.mmap(order.a, order.b, order.c, order.d, order.file, order.e)
        if kind == _MUNMAP:
            return memory.munmap(order.a, order.b)
        if kind == _MPROTECT:
            return memory.mprotect(order.a, order.b, order.c)
        if kind == _MREMAP:
            return memory.mremap(order.a, order.b, order.c, order.d, order.e)
        if kind == _MADVISE:
            return memory.madvise(order.a, order.b, order.c)
        if kind == _WRITE:
            if self._process.write(order.a, order.data) != len(order.data):
                self.cpu.r[0] = -errno.EFAULT & _M64
        elif kind == _EXIT:
            self._exit()
        else:
            self._bear(order)
        return 0

    def _bear(self, order: Order) -> None:
        born = order.born
        assert born is not None
        process = born._process
        if order.kind == _FORK:
            if process.is_dead:
                return
            before = process.memory
            process.memory = self._process.memory.fork()
            assert not before.pages
            process.is_ordered = False
            self.host.report(EV_STARTED, -1, process._ident)
        born.go()

    def _exit(self) -> None:
        self.state = GONE
        process = self._process
        if self in process.living:
            process.living.remove(self)
        if not process.living:
            process.end(0)

    # ---- running ----

    def go(self) -> None:
        """Carry out what is ordered, and run."""
        if self.state == GONE:
            return
        if self._carry_out() and self.may_run:
            self.state = RUNNING
            self.host.running.append(self)

    def ret(self, value: int) -> None:
        self.returned.append(value)
        self.cpu.r[0] = value & _M64
        self.go()

    def resume(self) -> None:
        self.resumed += 1
        self.go()

    def run_ops(self) -> None:
        if self._carry_out():
            self._stop_with(EV_OPS_DONE)

    def leave(self, value: int) -> bool:
        if not (self.may_run and self.orders):
            return True
        self.cpu.r[0] = value & _M64
        if self._carry_out():
            self._stop_with(EV_LEFT, _signed(self.cpu.r[0]))
        return False

    def leave_as_is(self) -> bool:
        if not (self.may_run and self.orders):
            return True
        if self._carry_out():
            self._stop_with(EV_LEFT)
        return False

    def has_orders(self) -> bool:
        return self.may_run and bool(self.orders)

    def interrupt(self) -> None:
        self.interrupts += 1
        if self.state == RUNNING:
            self.is_interrupted = True

    def is_running(self) -> bool:
        return self.state == RUNNING

    def is_paused(self) -> bool:
        """Whether its process is."""
        return self._process.is_paused

    def discard(self) -> None:
        if self in self.host.threads:
            self.host.threads.remove(self)
        if self in self._process.living:
            self._process.living.remove(self)
        self.state = GONE

    def park(self, parking: Parking) -> bool:
        return False

    def _stop_with(self, kind: int, a: int = 0, b: int = 0) -> None:
        self.state = STOPPED
        self.is_interrupted = False
        self.host.report(kind, self._ident, a, b)

    def run(self) -> Event | None:
        """Some instructions; what stopped it."""
        if self.is_interrupted:
            self.state, self.is_interrupted = STOPPED, False
            return (EV_INTERRUPTED, self._ident, 0, 0, 0, 0, 0, 0, 0)
        cpu = self.cpu
        result = cpu.run(self._process.memory, _SLICE)
        if result == SYSCALL:
            regs = cpu.registers()
            self.state, self.is_interrupted = STOPPED, False
            a, b, c, d, e, f = regs.call_arguments()
            return (
                EV_SYSCALL, self._ident, _signed(regs.result),
                _signed(a), _signed(b), _signed(c), _signed(d), _signed(e), _signed(f),
            )  # fmt: skip
        if result == FAULT:
            why = cpu.fault
            assert why is not None
            self.state, self.is_interrupted = STOPPED, False
            return (EV_FAULT, self._ident, why.signal, why.code, _signed(why.addr), why.trap, why.error, 0, 0)
        return None

    # ---- registers ----

    def regs(self) -> Registers:
        self.host.step()
        return self.cpu.registers()

    def set_regs(self, regs: Registers) -> None:
        self.host.step()
        self.cpu.load(regs)

    def fpstate(self) -> bytes:
        self.host.step()
        return bytes(self.cpu.fp)

    def set_fpstate(self, state: bytes) -> bool:
        if not state:
            self.cpu.fp = initial_fpstate()
            return True
        if not can_be_loaded(state, bytes(initial_fpstate())):
            return False
        self.cpu.fp = bytearray(state)
        return True


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


class FakePlatform(Platform):
    """Host descriptors through a real epoll; guests run while `next_event` is waited for."""

    def __init__(self, host: FakeHost | None = None) -> None:
        super().__init__()
        self.host: FakeHost = host if host is not None else FakeHost()
        self.epoll: select.epoll = select.epoll()
        self.tokens: dict[int, int] = {}
        self.is_threads_turn: bool = False
        self.prefetch: dict[int, list[tuple[int, int, int, int, int]]] = {}
        self.patched_calls: list[int] = []

    def start(self) -> None:
        pass

    def set_prefetch(self, nr: int, descriptors: list[tuple[int, int, int, int, int]]) -> None:
        self.prefetch[nr] = descriptors

    def set_patched_calls(self, numbers: list[int]) -> None:
        self.patched_calls = numbers

    def new_process(self, family: int = 0) -> HostProcess:
        self.host.step()
        return self.host.new_process()

    def thread(self, ident: int) -> HostThread:
        for thread in self.host.threads:
            if thread.ident() == ident:
                return thread
        raise KeyError(ident)

    def next_event(self, timeout_ns: int, deadline_ns: int = -1) -> Event:
        if timeout_ns >= 0:
            deadline_ns = time.monotonic_ns() + timeout_ns
        while True:
            event = self._look()
            if event[0] != EV_NONE:
                return event
            left_ns = deadline_ns - time.monotonic_ns()
            if deadline_ns >= 0 and left_ns <= 0:
                return event
            if not self.host.running:
                self._wait(left_ns / 1e9 if deadline_ns >= 0 else -1.0)

    def _look(self) -> Event:
        """Something that has happened, or a slice of each thread; descriptors and threads take turns."""
        if self.host.events:
            return self.host.events.popleft()
        self.is_threads_turn = not self.is_threads_turn
        for is_threads_turn in (self.is_threads_turn, not self.is_threads_turn):
            event = self._run() if is_threads_turn else self._poll()
            if event is not None:
                return event
        return (EV_NONE, -1, 0, 0, 0, 0, 0, 0, 0)

    def _poll(self) -> Event | None:
        for fd, bits in self.epoll.poll(0):
            return (EV_FD, -1, self.tokens[fd], bits, 0, 0, 0, 0, 0)
        return None

    def _run(self) -> Event | None:
        running = self.host.running
        for _ in range(len(running)):
            thread = running.popleft()
            if thread.state != RUNNING:
                continue
            event = None if thread.is_paused() else thread.run()
            if event is not None:
                return event
            running.append(thread)
        return None

    def _wait(self, timeout_s: float) -> None:
        self.epoll.poll(timeout_s)

    def add_fd(self, fd: int, token: int, events: int) -> None:
        self.epoll.register(fd, events)
        self.tokens[fd] = token

    def modify_fd(self, fd: int, token: int, events: int) -> None:
        self.epoll.modify(fd, events)
        self.tokens[fd] = token

    def remove_fd(self, fd: int) -> None:
        self.epoll.unregister(fd)
        del self.tokens[fd]

    def swap_shared(self, fd: int, offset: int, old: int, new: int) -> int:
        data = os.pread(fd, 4, offset)
        if len(data) < 4:
            return -1
        found = int.from_bytes(data, "little")
        if found == old:
            os.pwrite(fd, new.to_bytes(4, "little"), offset)
        return found

    def barrier(self) -> bool:
        return True

    def min_address(self) -> int:
        return 0x10000

    def max_address(self) -> int:
        return MAX_ADDRESS

    def vdso(self) -> tuple[int, int]:
        return 0, 0

    def shutdown(self) -> None:
        for process in list(self.host.processes):
            process.kill()
        self.host.events.clear()
        self.epoll.close()
