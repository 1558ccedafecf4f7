"""Waiting for a fork to be carried out by the host: until then the new process has no memory that other tasks could
access.

The parent may run on, and try that, as soon as its stub has made the fork; the sentry learns of the fork by the next
event.
"""

from cloche.kernel.task import Kernel
from cloche.mm.address_space import AddressSpace
from cloche.vfs.waitqueue import WaitQueue


def birth_queue(kernel: Kernel, space: AddressSpace) -> WaitQueue | None:
    """The queue that is woken once the host process of `space` exists (or was given up); None if it exists already."""
    process = space.process
    if space.is_dead or not process.is_unborn():
        return None
    queue = kernel.births.get(process.ident())
    if queue is None:
        queue = WaitQueue()
        kernel.births[process.ident()] = queue
    return queue
