"""eventfd(2) (fs/eventfd.c)."""

from typing import Final

from cloche.abi.errno import EAGAIN, EFAULT, EINVAL
from cloche.abi.eventfd import EFD_NONBLOCK, EFD_SEMAPHORE
from cloche.abi.fcntl import O_RDWR
from cloche.abi.poll import POLLERR, POLLIN, POLLOUT
from cloche.fs.anon import AnonFile
from cloche.kernel.task import Kernel
from cloche.mm.usermem import IovIter
from cloche.vfs.objects import Context
from cloche.vfs.waitqueue import WaitQueue

MAX_COUNT: Final = 0xFFFFFFFFFFFFFFFF


class EventFile(AnonFile):
    """A counter that can be waited for."""

    def __init__(self, kernel: Kernel, count: int, flags: int) -> None:
        super().__init__(kernel, b"[eventfd]", O_RDWR | flags & EFD_NONBLOCK)
        self.count: int = count
        self.is_semaphore: bool = flags & EFD_SEMAPHORE != 0
        self.ident: int = kernel.numbers.anon_ino()
        self.queue: WaitQueue = WaitQueue()

    def read(self, ctx: Context, dst: IovIter, flags: int = 0) -> int:
        if dst.remaining() < 8:
            return -EINVAL
        if self.count == 0:
            return -EAGAIN
        value = 1 if self.is_semaphore else self.count
        self.count -= value
        self.queue.wake(POLLOUT)
        return 8 if dst.copy_to(value.to_bytes(8, "little")) == 8 else -EFAULT

    def write(self, ctx: Context, src: IovIter, flags: int = 0) -> int:
        if src.remaining() != 8:  # strict since Linux 6.10
            return -EINVAL
        data = src.copy_from(8)
        value = int.from_bytes(data, "little")
        if value == MAX_COUNT or len(data) < 8:
            return -EINVAL
        if MAX_COUNT - self.count <= value:
            src.revert(8)  # the wait for room starts again with the same value
            return -EAGAIN
        self.count += value
        self.queue.wake(POLLIN)
        return 8

    def write_continues(self) -> bool:
        return False

    def signal(self, value: int) -> None:
        """The kernel adds to the counter (eventfd_signal), up to its limit."""
        self.count = min(self.count + value, MAX_COUNT)
        self.queue.wake(POLLIN)

    def poll(self, ctx: Context) -> int:
        mask = 0
        if self.count > 0:
            mask |= POLLIN
        if self.count == MAX_COUNT:
            mask |= POLLERR
        if self.count < MAX_COUNT - 1:
            mask |= POLLOUT
        return mask

    def wait_queue(self) -> WaitQueue | None:
        return self.queue

    def fdinfo(self) -> str:
        return (
            f"eventfd-count: {self.count:16x}\neventfd-id: {self.ident}\n"
            f"eventfd-semaphore: {int(self.is_semaphore)}\n"
        )
