"""How engines are told, with version 2: in a tree that looks like a group's, with real processes and no kernel behind it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.oci import oom


def score(pid: int) -> str:
    return Path(f"/proc/{pid}/oom_score_adj").read_text().strip()


@pytest.fixture
def guest() -> Iterator[int]:
    """A process that the kernel ends first, as it does guests."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        Path(f"/proc/{process.pid}/oom_score_adj").write_text("900")
        yield process.pid
        process.kill()


@pytest.fixture
def group(tmp_path: Path, guest: int) -> Path:
    files = {
        "cgroup.controllers": "memory",
        "cgroup.procs": f"{guest}\n",
        "memory.max": "1000000000\n",
        "memory.swap.max": "max\n",
        "memory.current": "200000000\n",
        "memory.stat": "anon 1\nactive_file 30000000\ninactive_file 10000000\n",
        "memory.reclaim": "",
        "memory.events": "oom 0\noom_kill 3\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_everything_is_as_before(group: Path, guest: int) -> None:
    """Where the kernel ends nothing, the helper is ended, and limits and scores are restored."""
    oom.report([str(group)], [], str(group))
    assert (group / "memory.max").read_text().strip() == "1000000000"
    assert (group / "memory.swap.max").read_text().strip() == "max"
    assert (group / "memory.reclaim").read_text() == "40000000"
    assert score(guest) == "900"
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert str(guest) in own and all("sleep" in Path(f"/proc/{pid}/comm").read_text() for pid in own)


def test_guests_are_not_ended_first(group: Path, guest: int) -> None:
    scores: dict[int, str] = {}
    assert oom.lower_scores(str(group), scores)
    assert scores == {guest: "900"} and score(guest) == "0"
    oom.restore_scores(str(group), scores)
    assert score(guest) == "900"


def test_a_group_without_a_limit_is_left_alone(group: Path, guest: int) -> None:
    (group / "memory.max").write_text("max\n")
    oom.report([str(group)], [], str(group))
    assert (group / "memory.reclaim").read_text() == "" and score(guest) == "900"
