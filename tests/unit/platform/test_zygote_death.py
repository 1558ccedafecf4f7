"""The zygote dies, of which every process is a fork: no call waits for ever, the platform reports it."""

import os
import signal
from pathlib import Path

import pytest
from code_guest import SECOND

from cloche.platform.interface import PlatformDied
from cloche.platform.systrap import Systrap


@pytest.mark.parametrize("mode", ["strict", "direct"])
def test_the_platform_says_that_it_has_died(mode: str) -> None:
    me = os.getpid()
    children = Path(f"/proc/{me}/task/{me}/children")
    before = children.read_text().split()
    platform = Systrap(mode)
    platform.start()
    try:
        zygote = next(int(pid) for pid in children.read_text().split() if pid not in before)
        platform.new_process()
        os.kill(zygote, signal.SIGKILL)
        with pytest.raises(PlatformDied):
            while True:
                platform.next_event(60 * SECOND)
        with pytest.raises(PlatformDied):
            platform.new_process()
        with pytest.raises(PlatformDied):
            platform.new_family()
    finally:
        platform.shutdown()
