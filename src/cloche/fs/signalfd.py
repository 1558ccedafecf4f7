"""signalfd(2) (fs/signalfd.c).

It reads and polls the signals of the *caller*, not of the process that made the descriptor. Therefore `wait_queue`
returns the queue of the task that polled or read last: callers must poll (or read) before they wait.
"""

from typing import Final

from cloche.abi.errno import EAGAIN, EINVAL
from cloche.abi.eventfd import SFD_NONBLOCK
from cloche.abi.fcntl import O_RDWR
from cloche.abi.poll import POLLIN
from cloche.abi.signal_structs import SIGNALFD_SIGINFO_SIZE, signalfd_record
from cloche.fs.anon import AnonFile
from cloche.kernel.signals import dequeue_signal
from cloche.kernel.task import Task
from cloche.mm.usermem import IovIter
from cloche.vfs.objects import Context
from cloche.vfs.waitqueue import WaitQueue

RECORD: Final = SIGNALFD_SIGINFO_SIZE


class SignalFile(AnonFile):
    """Signals of `mask` as records to read."""

    def __init__(self, task: Task, mask: int, flags: int) -> None:
        super().__init__(task.kernel, b"[signalfd]", O_RDWR | flags & SFD_NONBLOCK)
        self.mask: int = mask
        self.queue: WaitQueue = task.group.signal_wait

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        if not isinstance(ctx, Task) or dst.remaining() < RECORD:
            return -EINVAL
        self.queue = ctx.group.signal_wait
        done = 0
        while dst.remaining() >= RECORD:
            info = dequeue_signal(ctx, self.mask)
            if info is None:
                break
            done += dst.copy_to(signalfd_record(info.raw))
        return done if done else -EAGAIN

    def poll(self, ctx: Context) -> int:
        if not isinstance(ctx, Task):
            return 0
        self.queue = ctx.group.signal_wait
        return POLLIN if (ctx.pending.mask | ctx.group.pending.mask) & self.mask else 0

    def wait_queue(self) -> WaitQueue | None:
        return self.queue

    def set_mask(self, mask: int) -> None:
        """signalfd4 on an existing descriptor."""
        self.mask = mask
        self.queue.wake(POLLIN)

    def fdinfo(self) -> str:
        return f"sigmask:\t{self.mask:016x}\n"
