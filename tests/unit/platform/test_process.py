"""Host processes, beyond the behaviour of every platform (test_conformance_*.py): descriptors, states, figures."""

import os
import time

import pytest
from code_guest import SECOND, Guest
from machine_code import LOOP, SYSCALL, mov, syscall

from cloche.platform.interface import (
    EV_NONE,
    EV_SYSCALL,
    HostProcess,
)
from cloche.platform.systrap_process import SystrapProcess

# fork(); then exit(last result) for ever.
FORK_CODE = syscall(57) + bytes.fromhex("4889c7") + mov("rax", 60) + SYSCALL + bytes.fromhex("ebef")


def test_no_descriptor_stays_that_was_mapped(guest: Guest) -> None:
    fd = os.memfd_create("x")
    os.write(fd, b"A" * 4096 + b"B" * 4096)
    thread = guest.start(FORK_CODE)
    guest.event()
    for i in range(40):
        thread.queue_mmap(0x10000000 + i * 0x1000, 0x1000, 1, 0x12, fd, (i & 1) * 4096)
    os.close(fd)
    thread.ret(9)
    assert guest.event()[2:4] == (60, 9)
    assert thread.process().read(0x10000000, 4) == b"AAAA"
    assert thread.process().read(0x10000000 + 39 * 0x1000, 4) == b"BBBB"
    process = thread.process()
    assert isinstance(process, SystrapProcess)
    pid = process.host_pid()
    assert os.listdir(f"/proc/{pid}/fd") == []
    guest.kill(process)


def test_accounting(guest: Guest) -> None:
    thread = guest.start(LOOP)
    while sum(thread.process().cpu_times_ns()) < 5_000_000:
        assert guest.platform.next_event(SECOND // 100)[0] == EV_NONE
    assert thread.process().rss_bytes() > 0
    guest.kill(thread.process())


def host_state(process: HostProcess, wanted: str) -> None:
    """Wait until the host says that its only thread is in this state."""
    assert isinstance(process, SystrapProcess)
    for _ in range(5000):
        fields = process.read_proc("stat").rpartition(")")[2].split()
        if fields and fields[0] == wanted:
            return
        time.sleep(0.001)
    pytest.fail(f"never {wanted}")


def test_a_stop_by_the_host_is_not_noticed(guest: Guest) -> None:
    """What a waiting thread goes on with is restart_syscall, in the kernel's words."""
    thread = guest.start(syscall(39) + syscall(110) + LOOP)
    assert guest.event()[2] == 39
    thread.wait_long()
    assert guest.platform.next_event(0)[0] == EV_NONE  # answers its bell
    host_state(thread.process(), "S")
    for _ in range(3):
        assert thread.process().pause()
        host_state(thread.process(), "T")
        thread.process().proceed()
        host_state(thread.process(), "S")
    thread.ret(1)
    assert guest.event()[:3] == (EV_SYSCALL, thread.ident(), 110)
    guest.kill(thread.process())


def test_a_death_is_told_though_a_child_of_somebody_else_hides_it(guest: Guest) -> None:
    """One that died before, and is not the platform's to wait for (platform/deaths.py)."""
    thread = guest.start(LOOP)
    others = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, others, os.WEXITED | os.WNOWAIT)  # it has died, and stays
    guest.kill(thread.process())
    assert os.waitpid(others, 0) == (others, 0)
