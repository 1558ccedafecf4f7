"""A platform without guests, for tests: memory is a bytearray, threads never run.

It lives here, not in the tests, because compiled traits take no interpreted implementation.  Operations that
need a running guest raise NotImplementedError.

A `FakeHost` gives processes and threads, and can be told to fail at its n-th step: for tests that nothing is left of
what could not be finished.
"""

import errno
import os
import select
from typing import Final

from cloche.arch.registers import Registers
from cloche.platform.interface import HostProcess, HostThread, Platform, swap_result

MEMORY_BYTES: Final = 1 << 20


class FakeHost:
    """What the platform has of the host: threads and processes that are in use, and a step at which it has no more."""

    def __init__(self) -> None:
        self.fail_at: int = 0  # 0: never
        self.steps: int = 0
        self.threads: list[HostThread] = []
        self.processes: list[HostProcess] = []

    def step(self) -> None:
        """Something that a host may refuse."""
        self.steps += 1
        if self.steps == self.fail_at:
            raise OSError(errno.EMFILE, "no more")

    def new_process(self) -> "FakeProcess":
        process = FakeProcess(self)
        process.main = FakeThread(process, self)
        self.processes.append(process)
        return process


class FakeProcess(HostProcess):
    """An address space of MEMORY_BYTES from address 0 on; what lies beyond faults."""

    def __init__(self, host: FakeHost | None = None) -> None:
        self.host: FakeHost = host if host is not None else FakeHost()
        self.main: FakeThread | None = None
        self.memory: bytearray = bytearray(MEMORY_BYTES)
        self.rss: int = 0
        self.user_ns: int = 0
        self.system_ns: int = 0
        self.is_killed: bool = False

    def ident(self) -> int:
        return id(self)

    def rss_bytes(self) -> int:
        return self.rss

    def cpu_times_ns(self) -> tuple[int, int]:
        return self.user_ns, self.system_ns

    def read(self, addr: int, length: int) -> bytes:
        return bytes(self.memory[addr : addr + length]) if 0 <= addr < MEMORY_BYTES else b""

    def write(self, addr: int, data: bytes) -> int:
        if addr < 0:
            return 0
        count = max(0, min(len(data), MEMORY_BYTES - addr))
        self.memory[addr : addr + count] = data[:count]
        return count

    def has_pending_ops(self) -> bool:
        return False

    def main_thread(self) -> HostThread:
        assert self.main is not None
        return self.main

    def kill(self) -> None:
        self.is_killed = True
        if self in self.host.processes:
            self.host.processes.remove(self)


class FakeThread(HostThread):
    """A stopped thread; host descriptors are read and written for real."""

    def __init__(self, process: FakeProcess, host: FakeHost | None = None) -> None:
        self._process: FakeProcess = process
        self.host: FakeHost = host if host is not None else FakeHost()
        self.host.threads.append(self)
        self.queued: int = 0  # operations since the last resume
        self._regs: Registers = Registers()
        self.fp: bytes = b""
        self.returned: list[int] = []  # what `ret` was given
        self.resumed: int = 0
        self.interrupts: int = 0
        self.drops: int = 0  # orders to keep only some descriptors
        self.is_swapping: bool = False  # whether it has `swap`
        self.meanwhile: list[bytes] = []  # what others store in the word before each of its swaps
        self.found: int = -1

    def process(self) -> HostProcess:
        return self._process

    def ident(self) -> int:
        return id(self)

    def read(self, addr: int, length: int) -> bytes:
        return self._process.read(addr, length)

    def write(self, addr: int, data: bytes) -> int:
        return self._process.write(addr, data)

    def read_cstring(self, addr: int, limit: int) -> bytes | None:
        data = self._process.read(addr, limit)
        end = data.find(b"\0")
        return data if end < 0 else data[:end]

    def read_fd_into(self, fd: int, offset: int, addr: int, length: int, flags: int, key: int) -> int:
        buffer = bytearray(length)
        try:
            if offset >= 0 or flags:
                count = os.preadv(fd, [buffer], offset, flags)
            else:
                count = os.readv(fd, [buffer])
        except OSError as error:
            return -(error.errno or 5)
        return self.write(addr, bytes(buffer[:count]))

    def write_fd_from(self, fd: int, offset: int, addr: int, length: int, flags: int) -> int:
        data = self.read(addr, length)
        try:
            if offset >= 0 or flags:
                return os.pwritev(fd, [data], offset, flags)
            return os.write(fd, data)
        except OSError as error:
            return -(error.errno or 5)

    def can_swap(self) -> bool:
        return self.is_swapping

    def swap(self, addr: int, old: int, new: int, operation: int = 0) -> None:
        if self.meanwhile:
            self._process.write(addr, self.meanwhile.pop(0))
        data = self._process.read(addr, 4)
        self.found = int.from_bytes(data, "little") if len(data) == 4 else -1
        if operation and self.found >= 0:
            self._process.write(addr, swap_result(operation, self.found, new).to_bytes(4, "little"))
        elif self.found == old:
            self._process.write(addr, new.to_bytes(4, "little"))

    def swapped(self) -> int:
        return self.found

    def interrupt(self) -> None:
        self.interrupts += 1

    def ret(self, value: int) -> None:
        self.returned.append(value)

    def resume(self) -> None:
        self.resumed += 1
        self.queued = 0

    def run_ops(self) -> None:
        self.queued = 0

    def _queue(self) -> None:
        self.host.step()
        self.queued += 1

    def queue_keep_only(self, identities: list[int]) -> None:
        self.drops += 1

    def queue_exit(self) -> None:
        pass

    def queue_mmap(self, addr: int, length: int, prot: int, flags: int, fd: int, offset: int) -> None:
        self._queue()

    def queue_munmap(self, addr: int, length: int) -> None:
        self._queue()

    def queue_mprotect(self, addr: int, length: int, prot: int) -> None:
        self._queue()

    def queue_fork(self) -> HostProcess:
        self._queue()
        return self.host.new_process()

    def queue_clone_thread(self) -> HostThread:
        self._queue()
        return FakeThread(self._process, self.host)

    def cancel_clone(self, born: HostThread) -> None:
        self.queued = 0
        process = born.process()
        if process is not self._process:
            process.kill()
        born.discard()

    def discard(self) -> None:
        if self in self.host.threads:
            self.host.threads.remove(self)

    def is_running(self) -> bool:
        return False

    def regs(self) -> Registers:
        self.host.step()
        return self._regs.copy()

    def set_regs(self, regs: Registers) -> None:
        self.host.step()
        self._regs = regs.copy()

    def fpstate(self) -> bytes:
        self.host.step()
        return self.fp

    def set_fpstate(self, state: bytes) -> bool:
        self.fp = state
        return True


class FakePlatform(Platform):
    """Host descriptors through a real epoll."""

    def __init__(self, host: FakeHost | None = None) -> None:
        self.host: FakeHost = host if host is not None else FakeHost()
        self.epoll: select.epoll = select.epoll()
        self.tokens: dict[int, int] = {}
        self.prefetch: dict[int, list[tuple[int, int, int, int, int]]] = {}
        self.patched_calls: list[int] = []

    def set_prefetch(self, nr: int, descriptors: list[tuple[int, int, int, int, int]]) -> None:
        self.prefetch[nr] = descriptors

    def set_patched_calls(self, numbers: list[int]) -> None:
        self.patched_calls = numbers

    def new_process(self) -> HostProcess:
        self.host.step()
        return self.host.new_process()

    def add_fd(self, fd: int, token: int, events: int) -> None:
        self.epoll.register(fd, events)
        self.tokens[fd] = token

    def modify_fd(self, fd: int, token: int, events: int) -> None:
        self.epoll.modify(fd, events)
        self.tokens[fd] = token

    def remove_fd(self, fd: int) -> None:
        self.epoll.unregister(fd)
        del self.tokens[fd]

    def min_address(self) -> int:
        return 0x10000

    def max_address(self) -> int:
        return 0x7FFF_FFFF_F000

    def vdso(self) -> tuple[int, int]:
        return 0, 0
