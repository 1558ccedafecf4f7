"""A platform without guests, for tests: memory is a bytearray, threads never run.

It lives here, not in the tests, because compiled traits take no interpreted implementation.  Operations that
need a running guest raise NotImplementedError.
"""

import os
import select
from typing import Final

from cloche.arch.x86_64.registers import Registers
from cloche.platform.interface import HostProcess, HostThread, Platform

MEMORY_BYTES: Final = 1 << 20


class FakeProcess(HostProcess):
    """An address space of MEMORY_BYTES from address 0 on; what lies beyond faults."""

    def __init__(self) -> None:
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

    def kill(self) -> None:
        self.is_killed = True


class FakeThread(HostThread):
    """A stopped thread; host descriptors are read and written for real."""

    def __init__(self, process: FakeProcess) -> None:
        self._process: FakeProcess = process
        self._regs: Registers = Registers()
        self.fp: bytes = b""
        self.returned: list[int] = []  # what `ret` was given
        self.resumed: int = 0
        self.interrupts: int = 0
        self.drops: int = 0  # orders to keep only some descriptors

    def process(self) -> HostProcess:
        return self._process

    def ident(self) -> int:
        return 1

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

    def interrupt(self) -> None:
        self.interrupts += 1

    def ret(self, value: int) -> None:
        self.returned.append(value)

    def resume(self) -> None:
        self.resumed += 1

    def queue_keep_only(self, identities: list[int]) -> None:
        self.drops += 1

    def queue_exit(self) -> None:
        pass

    def discard(self) -> None:
        pass

    def is_running(self) -> bool:
        return False

    def regs(self) -> Registers:
        return self._regs.copy()

    def set_regs(self, regs: Registers) -> None:
        self._regs = regs.copy()

    def fpstate(self) -> bytes:
        return self.fp

    def set_fpstate(self, state: bytes) -> bool:
        self.fp = state
        return True


class FakePlatform(Platform):
    """Host descriptors through a real epoll."""

    def __init__(self) -> None:
        self.epoll: select.epoll = select.epoll()
        self.tokens: dict[int, int] = {}

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
