"""Small machine-code guests."""

from cloche.platform.interface import (
    EV_NONE,
    EV_PROCESS_DIED,
    EV_STARTED,
    Event,
    HostProcess,
    HostThread,
)
from cloche.platform.systrap import Systrap

CODE = 0x400000
STACK = 0x600000
MAP_FIXED_ANON = 0x32
SECOND = 1_000_000_000


class Guest:
    """Runs machine code in a fresh process."""

    def __init__(self, platform: Systrap) -> None:
        self.platform = platform

    def start(self, code: bytes, extra: bytes = b"", *, keeps: bool = False) -> HostThread:
        """Map `code` at CODE (with `extra` one page behind) and a stack below STACK, and run it; `keeps`: with the descriptors
        that its process was born with.
        """
        thread = self.platform.new_process().main_thread()
        thread.queue_mmap(CODE, 0x4000, 7, MAP_FIXED_ANON, -1, 0)
        thread.queue_mmap(STACK - 0x10000, 0x10000, 3, MAP_FIXED_ANON, -1, 0)
        thread.write(CODE, code)
        if extra:
            thread.write(CODE + 0x1000, extra)
        if not keeps:
            thread.queue_keep_only([])
        regs = thread.regs()
        regs.rip, regs.rsp = CODE, STACK
        thread.set_regs(regs)
        thread.resume()
        return thread

    def event(self, timeout_ns: int = 5 * SECOND) -> Event:
        """The next event; a timeout fails the test."""
        event = self.platform.next_event(timeout_ns)
        assert event[0] != EV_NONE, "no event in time"
        return event

    def kill(self, process: HostProcess) -> None:
        """Kill and wait for the report."""
        process.kill()
        while True:
            event = self.event()
            if event[0] == EV_PROCESS_DIED and event[2] == process.ident():
                break
        process.main_thread().discard()

    def event_of(self, *kinds: int) -> Event:
        """The next event that is not the birth of a fork, unless that is asked for."""
        while True:
            event = self.event()
            if event[0] in kinds or (event[0] != EV_STARTED and not kinds):
                return event
