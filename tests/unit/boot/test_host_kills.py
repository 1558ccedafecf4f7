"""Kills by the host's kernel for want of memory are counted and reported."""

from pathlib import Path

import pytest

from cloche.boot.memory_guard import HostKills
from cloche.kernel.siginfo import SignalHandlers
from cloche.kernel.task import Container, Kernel, ThreadGroup
from cloche.platform.fake import FakePlatform


def test_a_kill_by_the_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 17\noom 1\noom_kill 0\noom_group_kill 0\n")
    container = Container(Kernel(FakePlatform(), 1), "test")
    with events.open("rb") as file:
        watch = HostKills(container, file.fileno(), is_quiet=False)
        group = ThreadGroup(container, 7, SignalHandlers())
        group.end.status = 9
        watch.group_exits(group)  # an ordinary SIGKILL
        assert container.oom_kills == 0 and capsys.readouterr().err == ""
        events.write_text("low 0\noom_kill 1\n")
        group.end.status = 15
        watch.group_exits(group)
        assert container.oom_kills == 0
        group.end.status = 9
        watch.group_exits(group)
        watch.group_exits(group)
        events.write_text("low 0\noom_kill 2\n")
        ended = ThreadGroup(container, 8, SignalHandlers())
        ended.end.order(9)  # by the guard; the host was as quick
        ended.end.status = 9
        watch.group_exits(ended)
        watch.group_exits(group)  # an ordinary SIGKILL
    assert (container.oom_kills, container.host_kills) == (1, 1)
    assert capsys.readouterr().err.count("\n") == 1


def test_version_1(tmp_path: Path) -> None:
    control = tmp_path / "memory.oom_control"
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    with control.open("rb") as file:
        assert HostKills(Container(Kernel(FakePlatform(), 1), "test"), file.fileno(), is_quiet=True).seen == 3


def test_ends_by_which_an_engine_was_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are not of guests: an ordinary SIGKILL after one is none of the host's, and the next of the host's is."""
    control = tmp_path / "memory.oom_control"
    control.write_text("oom_kill 3\n")
    container = Container(Kernel(FakePlatform(), 1), "test")
    with control.open("rb") as file:
        watch = HostKills(container, file.fileno(), is_quiet=False)
        group = ThreadGroup(container, 7, SignalHandlers())
        group.end.status = 9
        control.write_text("oom_kill 4\n")
        container.told_kills += 1
        watch.group_exits(group)
        assert container.host_kills == 0
        control.write_text("oom_kill 5\n")
        watch.group_exits(group)
        watch.group_exits(group)
    assert (container.oom_kills, container.host_kills) == (1, 1)
    assert capsys.readouterr().err.count("\n") == 1
