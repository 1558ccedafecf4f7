"""The counters of internal errors and of long holds."""

import pytest

from cloche.kernel.meter import Meter, strict_limit_ns, strict_once_ns
from cloche.platform.interface import EV_FD, EV_STALL, EV_SYSCALL, Event


def fail(kind: int) -> Exception:
    try:
        if kind:
            raise ValueError("one")
        raise ValueError("another place")
    except ValueError as error:
        return error


def test_each_kind_is_logged_once_and_always_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Many errors of one kind do not silence those of another."""
    meter = Meter()
    for _round in range(100):
        meter.report_error("in a test", fail(0))
    meter.report_error("in a test", fail(1))
    text = capsys.readouterr().err
    assert text.count("Traceback") == 2
    assert "10 times" in text and "100 times" in text
    assert sorted(meter.errors.values()) == [1, 100]
    assert any(line.endswith("100 times in all") for line in meter.summary())


def stalled(kind: int, number: int, wall_ns: int) -> Event:
    return EV_STALL, -2, kind, number, wall_ns, -1, 0, 0, 0


def test_stalls_are_counted_by_call() -> None:
    meter = Meter()
    assert "system call 17" in meter.note_stall(stalled(EV_SYSCALL, 17, 20_000_000))[0]
    meter.note_stall(stalled(EV_SYSCALL, 17, 90_000_000))
    meter.note_stall(stalled(EV_FD, 5, 30_000_000))
    assert (meter.stalls[17].count, meter.stalls[17].longest_ns) == (2, 90_000_000)
    assert meter.stalls[-EV_FD].count == 1
    for number in range(2000):  # guests choose the numbers
        meter.note_stall(stalled(EV_SYSCALL, number, 20_000_000))
    assert len(meter.stalls) < 600


def worked(number: int, cpu_ns: int) -> Event:
    return EV_STALL, -2, EV_SYSCALL, number, 2 * cpu_ns, cpu_ns, 0, 0, 0


@pytest.mark.parametrize("setting", ["1", "40"])
def test_one_call_of_a_kind_may_take_longer_once(setting: str) -> None:
    meter = Meter()
    limit = strict_limit_ns(setting)
    meter.once_ns = strict_once_ns(setting)
    for number in (1, 2):
        assert not meter.note_stall(worked(number, 3 * limit))[1]
    assert meter.note_stall(worked(1, limit + 1))[1]
    assert meter.note_stall(worked(3, 5 * limit))[1]
