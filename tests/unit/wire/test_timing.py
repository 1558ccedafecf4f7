"""Marks of `cloche run --timing`."""

import subprocess
import sys

from cloche.wire import timing

CODE = """
from cloche.wire import timing
for number in range(100):
    timing.mark(f"step {number}", 1_000_000 * (number + 1))
assert len(timing.marks()) == timing.MAX_MARKS
timing.begin()
timing.mark("second", 5_000_000)
timing.add([("first", 3_500_000)])
print(timing.table(1_000_000))
"""


def test_steps_are_shown_in_their_order() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=150, check=True
    )
    assert done.stdout.splitlines() == ["     2.5 ms    +2.5  first", "     4.0 ms    +1.5  second"]


def test_what_a_sentry_says_is_checked() -> None:
    good = timing.encode([("a", 1), ("b", 2)])
    assert timing.decode(good) == [("a", 1), ("b", 2)]
    bad: list[object] = [["a"], ["a", "b"], [1, 2], "ab", ["\x1b[0m", 1], ["x" * 65, 1], ["é", 3]]
    assert timing.decode(bad) == [("é", 3)]
    assert len(timing.decode(good * 100)) == timing.MAX_MARKS
