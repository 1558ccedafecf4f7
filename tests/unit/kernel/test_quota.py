"""The account of the sentry's memory, and timers' share of a turn."""

from cloche.abi.time import CLOCK_MONOTONIC
from cloche.boot.cpu_guard import CpuGuard
from cloche.fs.timerfd import TimerFile
from cloche.kernel import timers
from cloche.kernel.task import Kernel
from cloche.kernel.timers import TIMER_FILE
from cloche.mm.quota import Quota
from cloche.platform.fake import FakePlatform


def test_room_is_asked_for_before_it_is_taken() -> None:
    quota = Quota(1000)
    assert quota.has_room(1000)
    quota.take(900)
    assert quota.has_room(100)
    assert not quota.has_room(101)
    assert quota.refusals == 1
    quota.give(400)
    assert quota.has_room(500)


def test_what_outlives_processes_leaves_a_quarter() -> None:
    quota = Quota(1000)
    quota.take(700)
    assert quota.has_spare(50)
    assert not quota.has_spare(51)
    assert quota.has_room(300)


def test_garbage_is_collected_before_anything_is_refused() -> None:
    quota = Quota(1000)

    class Node:
        def __init__(self) -> None:
            self.me = self
            quota.take(800)

        def __del__(self) -> None:
            quota.give(800)

    Node()
    assert quota.used == 800
    assert quota.has_room(500)
    assert quota.used == 0


def test_timers_have_a_limit_in_each_turn() -> None:
    kernel = Kernel(FakePlatform(), 1)
    files = [TimerFile(kernel, CLOCK_MONOTONIC, 0) for _ in range(10)]
    for number, file in enumerate(files):
        file.expires_ns = 1
        kernel.timers.add(number, TIMER_FILE, file)
    kernel.timers.run_due(100, 4)
    assert [file.ticks for file in files] == [1] * 4 + [0] * 6
    kernel.timers.run_due(100)
    assert [file.ticks for file in files] == [1] * 10


def test_a_timer_that_arms_itself_again_does_not_keep_the_turn() -> None:
    kernel = Kernel(FakePlatform(), 1)
    CpuGuard(kernel, 1.0).start()
    kernel.timers.run_due(1 << 62)
    assert kernel.timers.next_deadline_ns() > 0


def test_each_kind_of_timer_has_a_name() -> None:
    kinds = [value for name, value in vars(timers).items() if name.isupper() and isinstance(value, int)]
    assert sorted(kinds) == sorted(timers.KIND_NAMES) == list(range(1, len(kinds) + 1))


def test_a_cancelled_timer_tells_nobody() -> None:
    kernel = Kernel(FakePlatform(), 1)
    file = TimerFile(kernel, CLOCK_MONOTONIC, 0)
    timer = kernel.timers.add(1, TIMER_FILE, file)
    timer.cancel()
    assert kernel.timers.next_deadline_ns() == -1 and not timer.is_pending()
    kernel.timers.run_due(100)
    assert file.ticks == 0
