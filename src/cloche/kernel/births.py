"""Waiting for a fork to be carried out by the host: until then a new process has no memory that others could look at.

The parent may run on, and look, as soon as its stub has made the fork; the sentry hears of it by the next event.
"""

from cloche.kernel.task import Kernel
from cloche.mm.address_space import AddressSpace
from cloche.vfs.waitqueue import WaitQueue


def birth_queue(kernel: Kernel, space: AddressSpace) -> WaitQueue | None:
    """What is woken once the host process of `space` lives (or never will); None if there is nothing to wait for."""
    process = space.process
    if space.is_dead or not process.is_unborn():
        return None
    queue = kernel.births.get(process.ident())
    if queue is None:
        queue = WaitQueue()
        kernel.births[process.ident()] = queue
    return queue
