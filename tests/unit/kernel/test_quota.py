"""The account of the sentry's memory, and timers' share of a turn."""

from cloche.kernel.timers import TimerQueue
from cloche.mm.quota import Quota


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
    queue = TimerQueue()
    fired: list[int] = []
    for number in range(10):
        queue.add(number, lambda number=number: fired.append(number))  # type: ignore[misc]
    queue.run_due(100, 4)
    assert fired == [0, 1, 2, 3]
    queue.run_due(100)
    assert fired == list(range(10))


def test_a_timer_that_arms_itself_again_does_not_keep_the_turn() -> None:
    queue = TimerQueue()
    fired: list[int] = []

    def again() -> None:
        fired.append(0)
        queue.add(0, again)

    queue.add(0, again)
    queue.run_due(100)
    assert len(fired) == 1
