"""Reports internal errors, each kind once with a count, and handlers that took too long (I8).

The platform measures the time between two looks for events (`Platform.set_meter`) and tells of one that was too long;
the loop passes that on to `note_stall`. In production it is only counted, by the wall clock, so it includes time in
which the host ran other processes. Under CLOCHE_STRICT it is an internal error; there the processor time of the
sentry is measured, which a busy machine hardly lengthens, and the bound leaves room for slow machines and for an
interpreter. One call of a kind may take _ONCE times the bound once: in a virtual machine the time for which its host
has taken a processor away counts as processor time, too (67 ms were seen after a call that takes 2). What takes too
long by itself does so each time, so tests of one long call make it twice.

The bound under CLOCHE_STRICT is what is guaranteed; the aim is a millisecond. Compiled, the turns that large states
can cause (tests/security/programs/holds.c) and those of tests/guest stay below 14 ms. The rest is room: processor time
does not grow when other processes have the processor, but it does when they have its caches, and in the first tenths
of a second, where little of the interpreter is mapped yet (26 ms were seen, and 39 on a slow machine). Not measured
are the start of the first program, since no other guest could be kept waiting, and collections of cycles
(`platform.collector`), which take 40 ms where a guest has filled the sentry's quota with a million objects, and may
then be made for a tenth of the time (`mm.quota`). Interpreted everything takes ten to twenty times as long, so the
bound there finds only unbounded work.
"""

import sys
from typing import Final

from cloche.platform.interface import EV_SYSCALL, Event

LIMIT_NS: Final = 10_000_000  # of the wall clock, in production
STRICT_NS: Final = 30_000_000  # of processor time
STRICT_INTERPRETED_NS: Final = 250_000_000
_ONCE: Final = 4
_MAX_KINDS: Final = 512


class StalledTooLong(Exception):
    """A handler kept the event loop for longer than it may."""


class Stall:
    """How often calls of one kind have kept the loop too long, and for how long at most."""

    def __init__(self) -> None:
        self.count: int = 0
        self.longest_ns: int = 0


class Meter:
    """The counters of one sandbox."""

    def __init__(self) -> None:
        self.stalls: dict[int, Stall] = {}  # by number of the call; -kind of an event that was none
        self.errors: dict[str, int] = {}  # internal errors by kind: how often
        self.once_ns: int = 0  # under CLOCHE_STRICT the first of each kind may take so long

    def note_stall(self, event: Event) -> tuple[str, bool]:
        """EV_STALL: count it. Returns what to say about it, and whether it is an error under CLOCHE_STRICT."""
        number = event[3] if event[2] == EV_SYSCALL else -event[2]
        stall = self.stalls.get(number)
        if stall is None:
            if len(self.stalls) >= _MAX_KINDS:  # guests choose the numbers
                number = -1
            stall = self.stalls.setdefault(number, Stall())
        stall.count += 1
        # Processor time, where it is measured: waiting for the processor is not the handler's fault.
        stall.longest_ns = max(stall.longest_ns, event[5] if event[5] >= 0 else event[4])
        what = f"system call {number}" if number >= 0 else f"event {-number}"
        cpu = f", {event[5] / 1e6:.1f} of them at work" if event[5] >= 0 else ""
        is_error = stall.count > 1 or stall.longest_ns > self.once_ns
        return f"{event[4] / 1e6:.1f} ms{cpu} after {what}", is_error

    def note_error(self, error: Exception) -> tuple[int, str]:
        """Count an internal error. Returns how often its kind has occurred, and the kind's name."""
        at = error.__traceback__
        where = ""
        while at is not None:
            where = f"{at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}"
            at = at.tb_next
        kind = f"{type(error).__name__} at {where}"
        if kind not in self.errors and len(self.errors) >= _MAX_KINDS:
            kind = "others"
        count = self.errors.get(kind, 0) + 1
        self.errors[kind] = count
        return count, kind

    def report_error(self, where: str, error: Exception) -> None:
        """Log a kind of internal error when it first comes, and the count at each power of ten."""
        count, kind = self.note_error(error)
        if count == 1:
            sys.stderr.write(f"cloche: internal error {where}:\n")
            # The interpreter's own hook needs no module; imports are not possible any more.
            sys.excepthook(type(error), error, error.__traceback__)
        elif count in (10, 100, 1000, 10_000, 100_000, 1_000_000):
            sys.stderr.write(f"cloche: internal error {kind}: {count} times\n")
        sys.stderr.flush()

    def summary(self) -> list[str]:
        """A line for each kind that came more than once, and for each kind of call that kept the loop."""
        lines = [
            f"internal error {kind}: {count} times in all" for kind, count in self.errors.items() if count > 1
        ]
        for number, stall in sorted(self.stalls.items()):
            what = f"system call {number}" if number >= 0 else f"event {-number}"
            lines.append(
                f"{what} kept the loop too long {stall.count} times, up to {stall.longest_ns / 1e6:.1f} ms"
            )
        return lines


def strict_limit_ns(setting: str) -> int:
    """The bound under CLOCHE_STRICT: that many milliseconds where it is more than 1, else what suits this build."""
    if setting.isdigit() and 1 < int(setting[:9]):
        return int(setting[:9]) * 1_000_000
    return STRICT_INTERPRETED_NS if __file__.endswith(".py") else STRICT_NS


def strict_once_ns(setting: str) -> int:
    """How long the first call of a kind may take under CLOCHE_STRICT."""
    return _ONCE * strict_limit_ns(setting)
