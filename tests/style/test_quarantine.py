"""The tests that do not decide are few, exist, and have a reason each."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST = 10


def test_the_quarantine() -> None:
    lines = (ROOT / "tests" / "quarantine.txt").read_text().splitlines()
    rows = [line for line in lines if line and not line.startswith("#")]
    assert len(rows) <= MOST
    for row in rows:
        test, _, reason = row.partition(": ")
        path, _, function = test.partition("::")
        assert len(reason) > 20, f"no reason: {row}"
        assert f"def {function.partition('[')[0]}(" in (ROOT / path).read_text(), f"no such test: {test}"
