"""The end of a platform: the deaths of all guests are seen."""

import os
from pathlib import Path

from code_guest import SECOND, Guest
from machine_code import LOOP

from cloche.platform.interface import EV_NONE
from cloche.platform.systrap import Systrap
from cloche.platform.systrap_process import SystrapProcess


def test_no_death_is_missed_though_a_child_of_somebody_else_hides_it() -> None:
    """One that died before, and is not the platform's to wait for (platform/deaths.py)."""
    others = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, others, os.WEXITED | os.WNOWAIT)  # it has died, and stays
    platform = Systrap("direct")
    platform.start()
    lab = Guest(platform)
    guests = []
    for process in [lab.start(LOOP).process() for _ in range(3)]:
        assert isinstance(process, SystrapProcess)
        while process.host_pid() <= 0:
            assert platform.next_event(SECOND // 100)[0] == EV_NONE
        guests.append(process.host_pid())
    platform.shutdown()
    left = [pid for pid in guests if Path(f"/proc/{pid}").exists()]
    assert os.waitpid(others, 0) == (others, 0)
    assert not left
