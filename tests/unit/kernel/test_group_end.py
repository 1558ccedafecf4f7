"""kernel.group_end and kernel.usage: the possible orders of steps in the end of a process; kernel.patience: chores
that wait.
"""

from collections import deque

import pytest

from cloche.kernel.chores import Chore
from cloche.kernel.group_end import GroupEnd
from cloche.kernel.host_wait import HostRequest, HostWait, HostWaits
from cloche.kernel.patience import Patience
from cloche.kernel.usage import Spent, Usage


def test_the_first_order_stays() -> None:
    end = GroupEnd()
    assert not end.is_ordered()
    assert end.order(9) and not end.order(15) and end.fatal_status == 9 and end.is_ordered()
    end.begin(9)
    assert not end.order(15) and end.status == 9


def test_the_status_of_an_end_that_has_begun_is_final() -> None:
    end = GroupEnd()
    end.thread_ended(256)
    assert end.status == 256
    end.begin(9)
    end.thread_ended(512)
    assert end.status == 9
    with pytest.raises(AssertionError):
        end.begin(15)


def test_what_is_reaped_is_no_zombie() -> None:
    end = GroupEnd()
    end.become_zombie()
    assert end.reap(is_waited_for=False) and end.is_unaccounted
    assert end.is_reaped and not end.is_zombie
    with pytest.raises(AssertionError):
        end.become_zombie()
    assert not GroupEnd().reap(is_waited_for=True)


def test_a_child_is_counted_with_its_own_children() -> None:
    parent, child = Spent(), Spent()
    child.children_user_ns, child.children_usage.minor_faults, child.io.reads = 5, 7, 3
    own = Usage()
    own.minor_faults = 11
    parent.add_child(100, 200, own, child)
    assert (parent.children_user_ns, parent.children_system_ns) == (105, 200)
    assert parent.children_usage.minor_faults == 18 and parent.io.reads == 3


class Worker:
    """What a chore asks: two questions, of which the first changes something."""

    def __init__(self, waits: HostWaits, kind: type[HostRequest]) -> None:
        self.waits = waits
        self.first, self.second = kind(), kind()
        self.first.is_once = True
        self.asked: list[str] = []

    def ask(self, name: str, request: HostRequest, *, is_turn: bool = False) -> None:
        if request not in self.waits.journal:
            self.asked.append(name)
            if not is_turn:
                self.waits.journal.append(request)
        if not request.is_answered:
            raise HostWait(request, is_turn=is_turn)

    def work(self) -> str:
        assert self.waits.may_wait
        self.ask("first", self.first)
        self.ask("second", self.second, is_turn=True)
        return "done"


def test_a_chore_waits_with_its_journal() -> None:
    forgotten: list[HostRequest] = []

    class Request(HostRequest):
        def forget(self) -> None:
            forgotten.append(self)

    waits, chores, chore = HostWaits(), deque[Chore](), Chore()
    patience, worker = Patience(waits, chores, chore), Worker(waits, Request)
    assert patience.attempt(worker.work) == [] and patience.is_waiting() and not waits.may_wait
    worker.first.queue.wake()  # a hint, before the answer
    assert not chores
    worker.first.is_answered = True
    worker.first.queue.wake()
    assert list(chores) == [chore] and not patience.is_waiting()
    assert patience.attempt(worker.work) == [] and worker.asked == ["first", "second"]
    worker.second.is_answered = True
    worker.second.queue.wake()
    assert patience.is_waiting()  # for its turn, which has not come
    worker.second.is_settled = True
    worker.second.queue.wake()
    assert len(chores) == 2 and patience.attempt(worker.work) == ["done"]
    assert worker.asked.count("first") == 1 and forgotten == [worker.first]


def test_a_chore_that_is_given_up_forgets() -> None:
    forgotten: list[HostRequest] = []

    class Request(HostRequest):
        def forget(self) -> None:
            forgotten.append(self)

    waits, chores = HostWaits(), deque[Chore]()
    patience, worker = Patience(waits, chores, Chore()), Worker(waits, Request)
    patience.attempt(worker.work)
    patience.drop()
    assert forgotten == [worker.first] and not patience.is_waiting() and worker.first.queue.is_empty()
    worker.first.is_answered = True
    worker.first.queue.wake()
    assert not chores
