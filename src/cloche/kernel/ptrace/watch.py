"""Emulated debug registers: a watched tracee is single-stepped, and checked after each step.

The host's debug registers belong to the host, so a watchpoint is an emulation: `Tracee.watch` holds what the
tracer has set, and while any is enabled (`Watchpoints.is_enabled`) the thread runs with the trap flag.  A
write is noticed by the changed value (so one that changes nothing is not), a breakpoint by the instruction pointer
after a step. Reads cannot be noticed: a watchpoint for them is refused with ENOSPC. As with real debug registers,
writes by the kernel are not noticed.
"""

from typing import Final

from cloche.abi.errno import EINVAL, EIO, ENOSPC, LinuxError
from cloche.abi.limits import TASK_SIZE_MAX
from cloche.kernel.task import Task, Watchpoints

DR_STATUS: Final = 6
DR_CONTROL: Final = 7
_RW_EXECUTE: Final = 0
_RW_WRITE: Final = 1
_RW_READ_WRITE: Final = 3
_LENGTHS: Final = (1, 2, 8, 4)  # by the two bits of DR7


class Watch:
    """An enabled register."""

    def __init__(self, index: int, addr: int, length: int, *, is_code: bool) -> None:
        self.index: int = index
        self.addr: int = addr
        self.length: int = length
        self.is_code: bool = is_code


def parse(debug_regs: list[int], control: int) -> list[Watch]:
    """The watches that DR7 = `control` enables.  Raises LinuxError(EINVAL, ENOSPC)."""
    found: list[Watch] = []
    for index in range(4):
        if not control >> 2 * index & 3:
            continue
        kind = control >> 16 + 4 * index & 3
        length = _LENGTHS[control >> 18 + 4 * index & 3]
        addr = debug_regs[index]
        if kind == _RW_READ_WRITE:
            raise LinuxError(ENOSPC)
        if (
            kind not in (_RW_EXECUTE, _RW_WRITE)
            or (kind == _RW_EXECUTE and length != 1)
            or addr & (length - 1)
        ):
            raise LinuxError(EINVAL)
        found.append(Watch(index, addr, length, is_code=kind == _RW_EXECUTE))
    return found


def set_register(task: Task, index: int, value: int) -> None:
    """PTRACE_POKEUSER of u_debugreg (ptrace_set_debugreg).  Raises LinuxError."""
    if index in (4, 5):
        raise LinuxError(EIO)
    if index < 4 and value >= TASK_SIZE_MAX:
        raise LinuxError(EINVAL)
    tracee = task.tracee
    if tracee is None:
        return
    held = Watchpoints()
    if tracee.watch is not None:
        held.registers = list(tracee.watch.registers)
        held.is_enabled = tracee.watch.is_enabled
    held.registers[index] = value
    if index != DR_STATUS:
        held.is_enabled = len(parse(held.registers, held.registers[DR_CONTROL])) > 0
    tracee.watch = held


def forget(task: Task) -> None:
    """A new program, or no tracer any more: nothing is watched."""
    if task.tracee is not None:
        task.tracee.watch = None


def remember(task: Task, held: Watchpoints) -> None:
    """The task is about to make a step: note what is watched."""
    process = task.mm.process
    watched: list[bytes] = []
    for watch in parse(held.registers, held.registers[DR_CONTROL]):
        watched.append(b"" if watch.is_code else process.read(watch.addr, watch.length))
    held.seen = watched


def hits(task: Task, held: Watchpoints) -> int:
    """After a step: the bits of DR6 for what was hit; they are set there, too."""
    process, found = task.mm.process, 0
    watches = parse(held.registers, held.registers[DR_CONTROL])
    if len(watches) != len(held.seen):
        return 0
    pc = -1
    for at, watch in enumerate(watches):
        if watch.is_code:
            if pc < 0:
                pc = task.thread.regs().pc
            is_hit = pc == watch.addr
        else:
            is_hit = process.read(watch.addr, watch.length) != held.seen[at]
        if is_hit:
            found |= 1 << watch.index
    held.registers[DR_STATUS] |= found
    return found
