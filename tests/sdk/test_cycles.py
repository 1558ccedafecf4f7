"""Sandboxes made, used and ended again and again, their makers killed now and then: a few of `cycles.py`."""

from tests.sdk.cycles import run

CYCLES = 24


def test_nothing_is_left(root: str) -> None:
    told: list[int] = []

    def tell(done: int) -> bool:
        told.append(done)
        return True

    run(root, CYCLES, tell)
    assert told == list(range(1, CYCLES + 1))
