"""When the steps of a start happened, for `cloche run --timing`.

Each process of a sandbox notes its own, on the host's CLOCK_MONOTONIC, and gives them up the way its messages go.
Noting is always on: a dozen readings of the clock a start.
"""

import time
from typing import Final

MAX_MARKS: Final = 64

Marks = list[tuple[str, int]]
_marks: Final[Marks] = []


def mark(name: str, at_ns: int = 0) -> None:
    """Something was done, now or at `at_ns`.  Nothing is noted once the start is over."""
    if len(_marks) < MAX_MARKS:
        _marks.append((name, at_ns if at_ns else time.monotonic_ns()))


def marks() -> Marks:
    """What was noted in this process."""
    return list(_marks)


def add(others: Marks) -> None:
    """What other processes have noted."""
    _marks.extend(others)


def begin() -> None:
    """In a process that was just forked: what its parent has noted is not its own."""
    _marks.clear()


def encode(rows: Marks) -> list[object]:
    """As data of a message."""
    return [[name, at_ns] for name, at_ns in rows]


def decode(rows: list[object]) -> Marks:
    """The inverse; what is no mark is left out."""
    found: Marks = []
    for row in rows[:MAX_MARKS]:
        if isinstance(row, list) and len(row) == 2:
            name, at_ns = row
            if isinstance(name, str) and len(name) <= 64 and name.isprintable() and isinstance(at_ns, int):
                found.append((name, at_ns))
    return found


def table(begun_ns: int) -> str:
    """A line for each step in their order: milliseconds since `begun_ns`, and since the step before."""
    lines: list[str] = []
    before_ns = begun_ns
    for name, at_ns in sorted(_marks, key=_when):
        lines.append(f"{(at_ns - begun_ns) / 1e6:8.1f} ms {(at_ns - before_ns) / 1e6:+7.1f}  {name}")
        before_ns = at_ns
    return "\n".join(lines)


def _when(row: tuple[str, int]) -> int:
    return row[1]
