"""Guests that have children and siblings, for the conformance suite."""

import pytest
from code_guest import CODE, SECOND, STACK, Guest
from machine_code import REPORT, syscall

from cloche.platform.interface import EV_NONE, EV_SYSCALL, HostProcess, HostThread

DATA = CODE + 0x1000


def stopped(lab: Guest, code: bytes = b"", extra: bytes = b"") -> HostThread:
    thread = lab.start(code or syscall(39) + REPORT, extra)
    lab.event_of(EV_SYSCALL)
    return thread


def fork(lab: Guest, parent: HostThread, value: int = 77) -> HostThread:
    """A child; both have reported what their call gave them."""
    child = parent.queue_fork().main_thread()
    parent.ret(value)
    assert lab.reports(parent, child) == [value, 0]
    return child


def sibling(lab: Guest, main: HostThread, value: int = 7) -> HostThread:
    """A new thread; both have reported."""
    thread = main.queue_clone_thread()
    regs = thread.regs()
    regs.rsp = STACK - 0x8000
    thread.set_regs(regs)
    main.ret(value)
    assert lab.reports(main, thread) == [value, 0]
    return thread


def leave(thread: HostThread) -> None:
    """The end of a thread."""
    thread.queue_exit()
    thread.resume()
    thread.discard()


def progress(process: HostProcess, addr: int = DATA) -> int:
    return int.from_bytes(process.read(addr, 8), "little")


def wait_for_progress(lab: Guest, process: HostProcess) -> None:
    """Until the guest has counted on (machine_code.count_at)."""
    before = progress(process)
    for _ in range(6000):
        assert lab.platform.next_event(SECOND // 100)[0] == EV_NONE
        if progress(process) != before:
            return
    pytest.fail("it does not run")
