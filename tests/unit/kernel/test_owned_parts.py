"""Parts of tasks, processes and the kernel that keep an invariant of their own."""

from cloche.kernel.oom_score import OomScore
from cloche.kernel.parts import GroupTimers
from cloche.kernel.siginfo import SignalSource
from cloche.kernel.user_counts import UserCounts


def test_users_who_have_nothing_leave_nothing() -> None:
    counts = UserCounts()
    for uid in range(1000):
        counts.add(uid, 3)
        counts.add(uid, -3)
    assert counts.is_empty()
    counts.add(7, 2)
    counts.add(7, -1)
    assert counts.of(7) == 1 and counts.of(8) == 0 and not counts.is_empty()


def test_an_oom_score_falls_to_where_root_has_set_it() -> None:
    score = OomScore()
    assert score.set(500, is_privileged=False) and score.set(0, is_privileged=False)
    assert not score.set(-1, is_privileged=False) and score.adjustment == 0
    assert score.set(-300, is_privileged=True)
    child = OomScore()
    child.inherit(score)
    assert child.set(100, is_privileged=False) and child.set(-300, is_privileged=False)
    assert not child.set(-301, is_privileged=False) and child.adjustment == -300


def test_an_id_of_a_timer_comes_again_last() -> None:
    timers = GroupTimers()
    first = timers.take_id()
    timers.posix[first] = SignalSource()
    second = timers.take_id()
    assert (first, second) == (0, 1)
    assert timers.take_id() == 2  # though no call took 1
