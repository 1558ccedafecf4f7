"""The phases of a task: the table of changes, and the conditions in each."""

import pytest

from cloche.kernel import phase
from cloche.kernel.blocking import BLOCKED, Blocked, block_on_time, end_wait
from cloche.kernel.phase import DEAD, GUEST, KERNEL, LEAVING, LENT, NEW, WAITING, WAITS, WORKING, IllegalPhase
from cloche.kernel.signals import StoppedWait
from tests.unit.kernel.world import World


@pytest.fixture
def world() -> World:
    return World()


def test_each_phase_has_a_name_and_what_may_follow() -> None:
    numbers = list(range(len(phase.NAMES)))
    assert sorted(phase.NEXT) == numbers
    assert [name.upper() for name in phase.NAMES] == [
        name
        for number in numbers
        for name, value in vars(phase).items()
        if name.isupper() and value == number and isinstance(value, int)
    ]


def test_every_phase_but_the_last_can_end_and_can_be_reached() -> None:
    assert [number for number in phase.NEXT if DEAD not in phase.NEXT[number]] == [DEAD]
    reached = {number for following in phase.NEXT.values() for number in following}
    assert reached == set(phase.NEXT) - {NEW}


def test_guest_code_follows_the_kernel_only() -> None:
    assert [number for number in phase.NEXT if GUEST in phase.NEXT[number]] == [NEW, KERNEL]


def test_waits_lead_back_to_the_kernel() -> None:
    assert all(KERNEL in phase.NEXT[number] for number in (*WAITS, WORKING, LEAVING, GUEST))


def test_a_wait_says_where_its_task_is(world: World) -> None:
    op = StoppedWait(0)
    assert block_on_time(world.task, op) == BLOCKED
    assert world.task.phase == phase.STOPPED and world.task.is_parked()
    end_wait(world.task, op)
    assert world.task.phase == KERNEL and not world.task.is_parked()


def test_work_is_over_where_the_wait_belongs(world: World) -> None:
    task = world.task
    task.enter(WORKING)
    task.rest()
    assert task.phase == KERNEL
    op = StoppedWait(0)
    task.enter(WORKING)
    block_on_time(task, op)
    assert task.phase == WORKING and task.is_parked()
    task.rest()
    assert task.phase == phase.STOPPED


def test_a_waiting_task_cannot_run_on(world: World) -> None:
    block_on_time(world.task, Blocked())
    assert world.task.phase == WAITING
    with pytest.raises(IllegalPhase, match="from waiting to guest"):
        world.task.enter(GUEST)


@pytest.mark.parametrize("number", [WAITING, LENT])
def test_invariants(world: World, number: int) -> None:
    with pytest.raises(IllegalPhase, match="does not look so"):
        world.task.enter(number)  # but it waits for nothing


def test_the_dead_stay_dead(world: World) -> None:
    world.task.enter(DEAD)
    assert world.task.is_exited
    with pytest.raises(IllegalPhase):
        world.task.enter(KERNEL)


def test_nothing_is_checked_in_production(world: World) -> None:
    world.task.checks_phases = False
    world.task.enter(DEAD)
    world.task.enter(GUEST)
