"""Small machine-code guests."""

from cloche.platform.interface import (
    EV_NONE,
    EV_PROCESS_DIED,
    EV_STARTED,
    EV_SYSCALL,
    Event,
    HostProcess,
    HostThread,
    Platform,
)

CODE = 0x400000
STACK = 0x600000
MAP_FIXED_ANON = 0x32
SECOND = 1_000_000_000


class Guest:
    """Runs machine code in a fresh process."""

    def __init__(self, platform: Platform) -> None:
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

    def event(self, timeout_ns: int = 60 * SECOND) -> Event:
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

    def call(self, thread: HostThread, number: int) -> Event:
        """The next event but births, which is that call of that thread."""
        event = self.event_of()
        assert event[:3] == (EV_SYSCALL, thread.ident(), number), event
        return event

    def report(self, thread: HostThread) -> int:
        """What the thread reports (machine_code.REPORT) next."""
        return self.call(thread, 60)[3]

    def reports(self, *threads: HostThread) -> list[int]:
        """The next report of each thread, in any order."""
        found: dict[int, int] = {}
        while len(found) < len(threads):
            event = self.event_of()
            assert event[0] == EV_SYSCALL and event[2] == 60 and event[1] not in found, event
            found[event[1]] = event[3]
        return [found[thread.ident()] for thread in threads]

    def death(self, process: HostProcess) -> int:
        """The wait status of a process that dies; births are passed over."""
        while True:
            event = self.event_of()
            if event[0] == EV_PROCESS_DIED and event[2] == process.ident():
                return event[3]
