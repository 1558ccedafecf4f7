"""How engines are told: in trees that look like a group's, with real processes and no kernel behind them."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloche.oci import oom


def score(pid: int) -> str:
    return Path(f"/proc/{pid}/oom_score_adj").read_text().strip()


def assert_no_helper(guest: int) -> None:
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert str(guest) in own and all("sleep" in Path(f"/proc/{pid}/comm").read_text() for pid in own)


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
    assert oom.report([str(group)], str(group)) == 0
    assert (group / "memory.max").read_text().strip() == "1000000000"
    assert (group / "memory.swap.max").read_text().strip() == "max"
    assert (group / "memory.reclaim").read_text() == "40000000"
    assert score(guest) == "900"
    assert_no_helper(guest)


def test_guests_are_not_ended_first(group: Path, guest: int) -> None:
    scores: dict[int, str] = {}
    assert oom.lower_scores(str(group), scores)
    assert scores == {guest: "900"} and score(guest) == "0"
    oom.restore_scores(str(group), scores)
    assert score(guest) == "900"


def test_a_group_without_a_limit_is_left_alone(group: Path, guest: int) -> None:
    (group / "memory.max").write_text("max\n")
    assert oom.report([str(group)], str(group)) == 0
    assert (group / "memory.reclaim").read_text() == "" and score(guest) == "900"


class Kernel(threading.Thread):
    """Ends a process when the limit of a group of version 1 comes near its usage."""

    def __init__(self, group: Path) -> None:
        super().__init__(daemon=True)
        self.group: Path = group
        self.scores: list[str] = []  # of the guest and the swappiness, when that was

    def run(self) -> None:
        """Look until there is something to do, or for ten seconds."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            limit = (self.group / "memory.limit_in_bytes").read_text().strip()
            if limit.isdigit() and int(limit) < 210_000_000:
                guest = int((self.group / "cgroup.procs").read_text())
                self.scores = [score(guest), (self.group / "memory.swappiness").read_text()]
                (self.group / "memory.oom_control").write_text(
                    "oom_kill_disable 0\nunder_oom 0\noom_kill 8\n"
                )
                return
            time.sleep(0.001)


@pytest.fixture
def group_v1(tmp_path: Path, guest: int) -> Path:
    """Where a mount of version 1 would have it."""
    folder = tmp_path / "memory" / "g"
    folder.mkdir(parents=True)
    files = {
        "cgroup.procs": f"{guest}\n",
        "tasks": "",
        "memory.limit_in_bytes": "900000000\n",
        "memory.usage_in_bytes": "200000000\n",
        "memory.stat": "cache 1\nactive_file 30000000\ninactive_file 10000000\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n",
        "memory.swappiness": "6",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def assert_restored(group: Path, guest: int) -> None:
    assert (group / "memory.limit_in_bytes").read_text().strip() == "900000000"
    assert (group / "memory.swappiness").read_text() == "6"
    assert score(guest) == "900"
    assert_no_helper(guest)


def test_version_1_ends_one_process(group_v1: Path, guest: int, tmp_path: Path) -> None:
    kernel = Kernel(group_v1)
    kernel.start()
    assert oom.report([str(group_v1)], str(tmp_path)) == 1
    kernel.join(10)
    assert kernel.scores == ["0", "0"]
    assert_restored(group_v1, guest)


def test_version_1_gives_up(group_v1: Path, guest: int, tmp_path: Path) -> None:
    """Where nothing is ended, all is as before."""
    assert oom.report([str(group_v1)], str(tmp_path)) == 0
    assert_restored(group_v1, guest)


def test_version_1_without_a_limit(group_v1: Path, guest: int, tmp_path: Path) -> None:
    (group_v1 / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert oom.report([str(group_v1)], str(tmp_path)) == 0
    assert (group_v1 / "memory.swappiness").read_text() == "6" and score(guest) == "900"
