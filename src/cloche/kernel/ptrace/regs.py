"""The registers of a tracee, as ptrace(2) reads and writes them; their layouts are those of `arch.user`.

The task is in a stop, so its registers are in its slot; the number of its system call is the kernel's own
(`Task.trace.call_nr`).  The debug registers are those of `watch`.
"""

from cloche.abi.errno import EINVAL, EIO, LinuxError
from cloche.arch import user
from cloche.kernel.ptrace.watch import set_register
from cloche.kernel.task import Task


def read_regs(task: Task) -> bytes:
    """The general registers of a stopped task."""
    return user.pack_general(task.thread.regs(), task.trace.call_nr)


def write_regs(task: Task, raw: bytes) -> None:
    """Replace all general registers.  Raises LinuxError(EIO) for what user code cannot have."""
    user.check_general(raw)
    if not task.thread.has_all_registers():
        # In its last stop, inside a call from a patched site: nothing of it would be used.
        raise LinuxError(EIO)
    regs = task.thread.regs()
    number = user.unpack_general(raw, regs)
    task.thread.set_regs(regs)
    task.trace.call_nr = number


def peek_user(task: Task, offset: int) -> int:
    """PTRACE_PEEKUSER: a word of struct user.  Raises LinuxError(EIO)."""
    if offset & 7 or offset < 0 or offset >= user.USER_SIZE:
        raise LinuxError(EIO)
    if offset < user.GENERAL_SIZE:
        return int.from_bytes(read_regs(task)[offset : offset + 8], "little")
    index = (offset - user.DEBUG_OFFSET) >> 3
    held = task.tracee.watch if task.tracee is not None else None
    if held is not None and 0 <= index < user.DEBUG_COUNT:
        return held.registers[index]
    return 0


def poke_user(task: Task, offset: int, value: int) -> None:
    """PTRACE_POKEUSER.  Raises LinuxError."""
    if offset & 7 or offset < 0 or offset >= user.USER_SIZE:
        raise LinuxError(EIO)
    if offset < user.GENERAL_SIZE:
        raw = read_regs(task)
        write_regs(task, raw[:offset] + value.to_bytes(8, "little") + raw[offset + 8 :])
        return
    index = (offset - user.DEBUG_OFFSET) >> 3
    if not 0 <= index < user.DEBUG_COUNT:
        raise LinuxError(EIO)
    set_register(task, index, value)


# -- floating point ------------------------------------------------------------------------------------------


def _state(task: Task) -> bytes:
    if not task.thread.has_all_registers():
        raise LinuxError(EIO)
    return task.thread.fpstate()


def read_fpregs(task: Task) -> bytes:
    """The FP registers in their old layout (PTRACE_GETFPREGS)."""
    return user.fp_set(_state(task))


def write_fpregs(task: Task, raw: bytes) -> None:
    """Replace the FP registers of the old layout.  Raises LinuxError(EINVAL)."""
    if not task.thread.set_fpstate(user.with_fp_set(_state(task), raw)):
        raise LinuxError(EINVAL)


def read_set(task: Task, kind: int) -> bytes:
    """A whole register set.  Raises LinuxError(EINVAL) for one that is not there."""
    if kind == user.GENERAL_SET:
        return read_regs(task)
    if kind == user.FP_SET:
        return read_fpregs(task)
    if kind == user.EXTENDED_SET:
        return user.extended_set(_state(task))
    raise LinuxError(EINVAL)


def write_set(task: Task, kind: int, raw: bytes) -> None:
    """Replace a register set, or its beginning.  Raises LinuxError."""
    if kind == user.GENERAL_SET:
        write_regs(task, raw + read_regs(task)[len(raw) :])
    elif kind == user.FP_SET:
        if len(raw) != user.FP_SIZE:
            raise LinuxError(EINVAL)
        write_fpregs(task, raw)
    elif not task.thread.set_fpstate(user.with_extended_set(_state(task), raw)):
        raise LinuxError(EINVAL)
