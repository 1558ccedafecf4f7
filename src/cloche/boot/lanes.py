"""The sentry's lanes (kernel.lanes): its threads, started before the seccomp filter, which allows no more of them."""

import os
import sys
from _thread import LockType, allocate_lock, stack_size, start_new_thread
from collections.abc import Callable
from typing import Final

from cloche.kernel.lanes import Lanes
from cloche.kernel.loop import StopLoop
from cloche.kernel.loop import run as run_loop
from cloche.kernel.task import Kernel
from cloche.platform.interface import Platform, PlatformDied

_SPARE: Final = 5  # further lanes: so many calls may take long at the same time
_STACK_BYTES: Final = 4 << 20
_EXIT_INTERNAL: Final = 125


class LaneThreads:
    """The threads of one sentry, and what they will run."""

    def __init__(self, platform: Platform) -> None:
        self.platform: Platform = platform
        self.kernel: Kernel | None = None
        self.lanes: Lanes | None = None
        self.finish: Callable[[], None] | None = None
        self.failure: str = ""  # why the loop ended before its programs did
        self.bell_fd: int = -1

    def start(self) -> None:
        """The caller is the first lane.  Raises OSError."""
        bell_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        if not self.platform.open_lanes(bell_fd, self._came_back):
            os.close(bell_fd)
            return
        self.bell_fd = bell_fd
        before = stack_size(_STACK_BYTES)
        locks: list[LockType] = []
        for _ in range(_SPARE):
            begun = allocate_lock()
            begun.acquire()
            start_new_thread(self._run, (begun,))
            locks.append(begun)
        for begun in locks:
            # wait until it runs: the C library starts a thread with calls that the filter does not allow
            begun.acquire()
        stack_size(before)

    def install(self, kernel: Kernel, finish: Callable[[], None]) -> None:
        """Run this kernel from now on. `finish` ends the sandbox if the first lane cannot, because it is away."""
        self.kernel, self.finish = kernel, finish
        lanes = Lanes(kernel, _SPARE)
        self.lanes = lanes
        if self.bell_fd >= 0:
            lanes.install(self.bell_fd)

    def run(self, kernel: Kernel) -> None:
        """The loop, until the end."""
        try:
            run_loop(kernel)
        except StopLoop:
            self.failure = "stopped by an internal error (CLOCHE_STRICT)"
        except PlatformDied as death:
            self.failure = str(death)

    def _came_back(self, lane: int) -> None:
        if self.lanes is not None:
            self.lanes.came_back(lane)

    def _run(self, begun: LockType) -> None:
        """A further lane."""
        try:
            begun.release()
            lane, thread = self.platform.stand_by(is_new=True)
            kernel, lanes, finish = self.kernel, self.lanes, self.finish
            assert kernel is not None and lanes is not None and finish is not None
            lanes.take_over(lane, thread)
            self.run(kernel)
            kernel.is_over = True
            self.platform.leave_to_first()
            finish()
            os._exit(0)
        except BaseException as failure:
            sys.excepthook(type(failure), failure, failure.__traceback__)
            os._exit(_EXIT_INTERNAL)
