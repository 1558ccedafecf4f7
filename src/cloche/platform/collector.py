"""The time spent in the cyclic collector, for the meter of long handlers (`kernel.meter`).

A collection scans all objects, so its duration says nothing about the handler in which it happens to run.
"""

import gc
import time


class CollectorTime:
    """Processor time of this thread in collections since `install`."""

    def __init__(self) -> None:
        self.used_ns: int = 0
        self.began_ns: int = 0
        self.is_installed: bool = False

    def install(self) -> None:
        """Count from now on."""
        if not self.is_installed:
            self.is_installed = True
            gc.callbacks.append(self.note)

    def note(self, phase: str, info: object) -> None:
        """A collection begins ("start") or is over."""
        now_ns = time.thread_time_ns()
        if phase == "start":
            self.began_ns = now_ns
        else:
            self.used_ns += now_ns - self.began_ns
