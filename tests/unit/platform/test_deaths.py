"""When a death that was reported is dealt with: rather while guests compute, but soon."""

import os
import signal

from code_guest import Guest
from machine_code import REPORT

from cloche.platform.deaths import Deaths
from cloche.platform.interface import EV_PROCESS_DIED, EV_SYSCALL

CALLS_BEFORE = 32  # a death at most, once it was reported


def test_a_report_waits_for_some_events_and_no_more() -> None:
    deaths = Deaths()
    assert not deaths.is_due()
    deaths.report()
    assert deaths.is_due()
    assert [deaths.may_wait() for _ in range(CALLS_BEFORE + 1)] == [True] * CALLS_BEFORE + [False]


def test_a_further_report_does_not_put_off_the_first() -> None:
    deaths = Deaths()
    deaths.report()
    for _ in range(CALLS_BEFORE):
        deaths.report()
        assert deaths.may_wait()
    assert not deaths.may_wait()


def test_a_death_is_told_while_another_guest_calls_all_the_time(guest: Guest) -> None:
    busy, doomed = guest.start(REPORT), guest.start(REPORT)
    for _ in range(2):
        guest.event_of(EV_SYSCALL)
    os.kill(doomed.process().host_pid(), signal.SIGKILL)
    busy.ret(0)
    while True:
        event = guest.event()
        if event[0] == EV_PROCESS_DIED:
            break
        if event[0] == EV_SYSCALL:
            busy.ret(0)
    assert event[2] == doomed.process().ident()
    doomed.discard()
    guest.event_of(EV_SYSCALL)
    guest.kill(busy.process())
