"""When the steps of a start happened, for `cloche run --timing`.

Each process of a sandbox records its own steps on the host's CLOCK_MONOTONIC, and sends them along with its messages.
Recording is always on: it reads the clock a dozen times for each start.
"""

import time
from typing import Final

MAX_MARKS: Final = 64

Marks = list[tuple[str, int]]
_marks: Final[Marks] = []


def mark(name: str, at_ns: int = 0) -> None:
    """Record that a step was done, now or at `at_ns`. Ignored once the start is over."""
    if len(_marks) < MAX_MARKS:
        _marks.append((name, at_ns if at_ns else time.monotonic_ns()))


def marks() -> Marks:
    """The steps that this process has recorded."""
    return list(_marks)


def add(others: Marks) -> None:
    """Add steps that other processes have recorded."""
    _marks.extend(others)


def begin() -> None:
    """To be called after a fork: drop the steps of the parent."""
    _marks.clear()


def encode(rows: Marks) -> list[object]:
    """As data of a message."""
    return [[name, at_ns] for name, at_ns in rows]


def decode(rows: list[object]) -> Marks:
    """The inverse of `encode`; malformed items are left out."""
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
