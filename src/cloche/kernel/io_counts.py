"""/proc/PID/io: what processes read and wrote (struct task_io_accounting).

Counting begins when such a file is first opened, so that no call pays for it before; programs use only differences.
It is installed as `Kernel.observer`, which every finished call notifies, in front of the observer of --strace.
"""

from typing import Final

from cloche.arch.syscalls import (
    SYS_copy_file_range,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_pwritev2,
    SYS_read,
    SYS_readv,
    SYS_sendfile,
    SYS_write,
    SYS_writev,
)
from cloche.kernel.args import Args
from cloche.kernel.task import CallObserver, Kernel, Task
from cloche.kernel.usage import IoCounts

_READS: Final = frozenset((SYS_read, SYS_pread64, SYS_readv, SYS_preadv, SYS_preadv2))
_WRITES: Final = frozenset((SYS_write, SYS_pwrite64, SYS_writev, SYS_pwritev, SYS_pwritev2))
_BOTH: Final = frozenset((SYS_sendfile, SYS_copy_file_range))


class IoCounter(CallObserver):
    """The observer that counts."""

    def __init__(self, inner: CallObserver | None) -> None:
        self.inner: CallObserver | None = inner

    def finished(self, task: Task, args: Args, result: int) -> None:
        """A call is over."""
        number = args.nr
        if number in _READS or number in _WRITES or number in _BOTH:
            counts = task.io_counts
            if counts is None:
                counts = task.io_counts = IoCounts()
            count = max(result, 0)
            if number not in _WRITES:
                counts.read_bytes += count
                counts.reads += 1
            if number not in _READS:
                counts.written_bytes += count
                counts.writes += 1
        inner = self.inner
        if inner is not None:
            inner.finished(task, args, result)


def start_counting(kernel: Kernel) -> None:
    """Count what calls read and write from now on."""
    if isinstance(kernel.observer, IoCounter):
        return
    kernel.observer = IoCounter(kernel.observer)
    kernel.hooks.at_exit["io counts"] = _task_exits


def _task_exits(task: Task) -> None:
    if task.io_counts is not None:
        task.group.spent.io.add(task.io_counts)
        task.io_counts = None


def io_counts(task: Task, *, is_thread: bool) -> IoCounts:
    """The counts of a thread, or of its process with its dead threads and the children that it has waited for."""
    total = IoCounts()
    if is_thread:
        total.add(task.io_counts)
        return total
    total.add(task.group.spent.io)
    for member in task.group.tasks:
        total.add(member.io_counts)
    return total
