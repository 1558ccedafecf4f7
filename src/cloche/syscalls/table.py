"""The table of system calls: one row per number of x86-64, in the `rows_*.py` of its family.

All other lists of system calls (the kernel's handlers, the platform's tables, `--strace`, `cloche syscalls`,
docs/compat.md) are derived from it. The handlers are plain functions `sys_x(task, args) -> int` in this folder's
`sys_*.py`.
"""

from typing import Final

from cloche.kernel.task import Handler, Kernel
from cloche.syscalls import rows_absent, rows_files, rows_ipc, rows_memory, rows_process
from cloche.syscalls.row import Row
from cloche.syscalls.sys_process import sys_ni


def _number(entry: Row) -> int:
    return entry.number


# 336 to 423 are not assigned on x86-64.
ROWS: Final[list[Row]] = sorted(
    rows_files.ROWS + rows_memory.ROWS + rows_process.ROWS + rows_ipc.ROWS + rows_absent.ROWS, key=_number
)


def build_handlers(missing: Handler) -> list[Handler]:
    """Handlers by number, `missing` where no call is assigned."""
    handlers = [missing] * (ROWS[-1].number + 1)
    for entry in ROWS:
        handlers[entry.number] = entry.handler
    return handlers


def patched_calls() -> list[int]:
    """Numbers that may come from patched text, without a signal frame; unassigned numbers are among them."""
    is_patched = [True] * (ROWS[-1].number + 1)
    for entry in ROWS:
        is_patched[entry.number] = not (entry.needs_frame or entry.writes_registers)
    return [number for number in range(len(is_patched)) if is_patched[number]]


# Made at the import: forks of the template then share the pages of all the functions whose references it counts.
_HANDLERS: Final[list[Handler]] = build_handlers(sys_ni)


def install(kernel: Kernel) -> None:
    """Give the kernel its handlers, and the platform its tables. To be called once, after the platform's start."""
    kernel.table = _HANDLERS
    platform = kernel.platform
    for entry in ROWS:
        if entry.prefetch:
            platform.set_prefetch(entry.number, entry.prefetch)
    platform.set_patched_calls(patched_calls())
