"""Unified diffs of texts that a guest wrote: by Myers's algorithm, with a bound on the work.

E. W. Myers, "An O(ND) Difference Algorithm and Its Variations" (1986). The standard library's `difflib` takes cubic
time on texts that were made to be slow; here texts that differ in more than MAX_EDITS lines are shown as one
replacement.
"""

from array import array
from collections.abc import Iterator
from typing import Final

MAX_EDITS: Final = 2000
CONTEXT: Final = 3
NO_NEWLINE: Final = "\\ No newline at end of file"

# A run of lines: (equal, old from, old to, new from, new to)
Run = tuple[bool, int, int, int, int]


def split_lines(text: str) -> list[str]:
    """Lines with their newlines; only "\\n" ends one."""
    lines = text.split("\n")
    last = lines.pop()
    found = [line + "\n" for line in lines]
    if last:
        found.append(last)
    return found


class _Front:
    """How far the paths with so many edits reach on each diagonal, -1 where there are none."""

    def __init__(self, edits: int, reached: "array[int]") -> None:
        self.edits: int = edits
        self.reached: array[int] = reached  # on the diagonals from -edits - 1 to edits + 1

    def at(self, k: int) -> int:
        """On diagonal `k`."""
        index = k + self.edits + 1
        return self.reached[index] if 0 <= index < len(self.reached) else -1

    def is_down(self, k: int) -> bool:
        """Whether the last edit before diagonal `k` was an insertion."""
        return k == -self.edits or (k != self.edits and self.at(k - 1) < self.at(k + 1))


def _trace(old: list[str], new: list[str]) -> list[_Front] | None:
    """The furthest reaching paths before each edit; None: too many edits."""
    n, m = len(old), len(new)
    trace: list[_Front] = []
    reached = array("q", [-1, -1, 0])  # as if an insertion came from diagonal 1
    for edits in range(min(n + m, MAX_EDITS) + 1):
        front = _Front(edits, reached)
        trace.append(front)
        grown = array("q", [-1]) * (2 * edits + 5)  # diagonals from -edits - 2 to edits + 2
        for k in range(-edits, edits + 1, 2):
            x = front.at(k + 1) if front.is_down(k) else front.at(k - 1) + 1
            y = x - k
            if x > n or y > m or y < 0 or x < 0:
                continue
            while x < n and y < m and old[x] == new[y]:
                x += 1
                y += 1
            grown[k + edits + 2] = x
            if x >= n and y >= m:
                return trace
        reached = grown
    return None


def runs(old: list[str], new: list[str]) -> list[Run]:
    """Equal and changed runs of lines, in order, that cover both texts."""
    start = 0
    limit = min(len(old), len(new))
    while start < limit and old[start] == new[start]:
        start += 1
    end = 0
    while end < limit - start and old[-1 - end] == new[-1 - end]:
        end += 1
    a, b = old[start : len(old) - end], new[start : len(new) - end]
    matched: list[tuple[int, int]] = []  # pairs of equal lines
    trace = _trace(a, b) if a and b else None
    if trace is not None:
        x, y = len(a), len(b)
        for edits in range(len(trace) - 1, -1, -1):
            front = trace[edits]
            k = x - y
            before_k = k + 1 if front.is_down(k) else k - 1
            before_x = front.at(before_k) if edits else 0
            before_y = before_x - before_k if edits else 0
            while x > before_x and y > before_y:
                x -= 1
                y -= 1
                matched.append((x, y))
            if edits:
                x, y = before_x, before_y
        matched.reverse()
    found: list[Run] = []
    if start:
        found.append((True, 0, start, 0, start))
    x = y = 0
    at = 0
    while at <= len(matched):
        next_x, next_y = matched[at] if at < len(matched) else (len(a), len(b))
        if next_x > x or next_y > y:
            found.append((False, start + x, start + next_x, start + y, start + next_y))
        if at == len(matched):
            break
        length = 1
        while at + length < len(matched) and matched[at + length] == (next_x + length, next_y + length):
            length += 1
        x, y = next_x + length, next_y + length
        found.append((True, start + next_x, start + x, start + next_y, start + y))
        at += length
    if end:
        found.append((True, len(old) - end, len(old), len(new) - end, len(new)))
    return found


def hunks(found: list[Run]) -> Iterator[list[Run]]:
    """Runs in groups, with at most CONTEXT equal lines around the changes."""
    group: list[Run] = []
    for index, (is_equal, i1, i2, j1, j2) in enumerate(found):
        if not is_equal:
            group.append((False, i1, i2, j1, j2))
            continue
        is_first, is_last = not group, index == len(found) - 1
        if is_first:
            count = min(CONTEXT, i2 - i1)
            if not is_last and count:
                group.append((True, i2 - count, i2, j2 - count, j2))
        elif is_last or i2 - i1 > 2 * CONTEXT:
            count = min(CONTEXT, i2 - i1)
            group.append((True, i1, i1 + count, j1, j1 + count))
            yield group
            group = [] if is_last else [(True, i2 - CONTEXT, i2, j2 - CONTEXT, j2)]
        else:
            group.append((True, i1, i2, j1, j2))
    if any(not run[0] for run in group):
        yield group


def _span(first: int, last: int) -> str:
    length = last - first
    if length == 1:
        return f"{first + 1}"
    return f"{first + 1 if length else first},{length}"


def heading(group: list[Run]) -> str:
    """The @@ line of a hunk."""
    return f"@@ -{_span(group[0][1], group[-1][2])} +{_span(group[0][3], group[-1][4])} @@"


def hunk_lines(group: list[Run], old: list[str], new: list[str]) -> Iterator[tuple[str, str]]:
    """Sign and line of a hunk's body; a line without a newline is followed by NO_NEWLINE, with an empty sign."""
    for is_equal, i1, i2, j1, j2 in group:
        parts = [(" ", old[i1:i2])] if is_equal else [("-", old[i1:i2]), ("+", new[j1:j2])]
        for sign, lines in parts:
            for line in lines:
                yield sign, line.removesuffix("\n")
                if not line.endswith("\n"):
                    yield "", NO_NEWLINE


def counts(found: list[Run]) -> tuple[int, int]:
    """Lines that were added and removed."""
    added = sum(run[4] - run[3] for run in found if not run[0])
    return added, sum(run[2] - run[1] for run in found if not run[0])
