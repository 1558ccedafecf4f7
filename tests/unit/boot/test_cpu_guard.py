"""The bucket of `--cpus` without control groups."""

from cloche.boot.cpu_guard import MAX_DEBT_NS, PERIOD_NS, CpuGuard
from cloche.kernel.task import Kernel
from cloche.platform.fake import FakePlatform

MS = 1_000_000


def guard(limit: float, cpus: int = 4) -> CpuGuard:
    return CpuGuard(Kernel(FakePlatform(), cpus), limit)


def test_fills_up_to_a_period() -> None:
    one = guard(0.5)
    one.settle(10_000 * MS, 0)
    assert one.tokens_ns == 0.5 * PERIOD_NS


def test_overdrafts_are_paid_back() -> None:
    one = guard(0.5)
    one.settle(100 * MS, 200 * MS)
    assert one.tokens_ns == -150 * MS + 50 * MS - 0 * MS
    one.settle(200 * MS, 200 * MS)
    assert one.tokens_ns == 0


def test_a_debt_has_an_end() -> None:
    one = guard(0.01)
    one.settle(MS, 3_600_000 * MS)
    assert one.tokens_ns == -0.01 * MAX_DEBT_NS


def test_a_measure_that_falls_is_not_spent_twice() -> None:
    one = guard(1)
    one.settle(0, 50 * MS)
    one.settle(0, 20 * MS)  # a process died and was not reaped yet
    one.settle(0, 60 * MS)
    assert one.tokens_ns == PERIOD_NS - 60 * MS


def test_looks_when_the_bucket_may_be_empty() -> None:
    one = guard(0.5)
    assert one.next_look_ns() == int(0.5 * PERIOD_NS / 3.5)
    assert guard(8).next_look_ns() > 10 * MS
