"""A row of the table of system calls: everything that is specific to one call, except the work of its handler.

All other tables by the number of a call are derived from the rows, once at the start (`table.install`,
`strace.Tracer`, `cloche syscalls`).
"""

from typing import Final

from cloche.kernel.task import Handler
from cloche.platform.interface import PF_ARG, PF_CSTRING, PF_FIXED

FULL: Final = 0  # as Linux, as far as is known
PARTIAL: Final = 1  # the note says what is missing
REFUSED: Final = 2  # answered as Linux answers a caller without the privilege, or a kernel without the option
MISSING: Final = 3  # ENOSYS, counted

UNKNOWN: Final = "xxxxxx"  # types of a number without a call, or with unknown arguments

Copy = tuple[int, int, int, int, int]  # a descriptor of Platform.set_prefetch


def path(arg: int) -> Copy:
    """Argument `arg` is a string."""
    return (PF_CSTRING, arg, 0, 1024, 0)


def fixed(arg: int, count: int) -> Copy:
    """Argument `arg` points to `count` bytes."""
    return (PF_FIXED, arg, 0, count, 0)


def array(arg: int, count_arg: int, each: int, cap: int) -> Copy:
    """Argument `arg` points to as many times `each` bytes as `count_arg` says, not to be copied beyond `cap`."""
    return (PF_ARG, arg, count_arg, each, cap)


def payload(arg: int, count_arg: int) -> Copy:
    """Argument `arg` points to data that is written: the stub copies up to 16 KiB quicker than the host finds pages."""
    return array(arg, count_arg, 1, 16384)


class Row:
    """One system call."""

    def __init__(
        self,
        number: int,
        name: str,
        handler: Handler,
        support: int,
        types: str,
        note: str,
        prefetch: list[Copy],
        needs_frame: bool,
        writes_registers: bool,
    ) -> None:
        self.number: int = number
        self.name: str = name
        self.handler: Handler = handler
        self.support: int = support
        # For --strace, a letter for each argument: d int, u unsigned, x hex, o octal mode, p pointer, f descriptor,
        # a dirfd, s path or string, b buffer (its length is the next argument), r result buffer (its length is the
        # result), O open flags, P protection, M map flags, A access mode, v argv, S signal.  "=x" at the end: the
        # result in hex.
        self.types: str = types
        self.note: str = note
        # What the platform copies out of guest memory together with the call: it saves the handler a read of guest
        # memory (1.5 us each).  Only arguments that are pointers in *every* use of the call: a copy that faults
        # costs the guest a signal.  Not words that other threads may change (futexes): they are read fresh.
        self.prefetch: list[Copy] = prefetch
        # Calls that always come by the trap, with a signal frame, never by a jump from patched text: those which
        # need all of the caller's registers (or end a thread, or mostly in a signal's handler), and those which set
        # registers other than the result's.
        self.needs_frame: bool = needs_frame
        self.writes_registers: bool = writes_registers


def row(
    number: int,
    name: str,
    handler: Handler,
    support: int,
    types: str,
    note: str = "",
    prefetch: list[Copy] | None = None,
    needs_frame: bool = False,
    writes_registers: bool = False,
) -> Row:
    """A line of the table."""
    return Row(number, name, handler, support, types, note, prefetch or [], needs_frame, writes_registers)
