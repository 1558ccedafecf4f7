"""Control groups over directories that look like a host's: no host that runs the tests has both versions."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloche.runtime.cgroups import Limits, create, descendants, own_groups, sweep

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gets groups")


def test_own_groups() -> None:
    assert own_groups("9:name=systemd:/a\n2:cpu,cpuacct:/b:c\n0::/d\nnonsense\n") == {
        "name=systemd": "/a",
        "cpu": "/b:c",
        "cpuacct": "/b:c",
        "": "/d",
    }


@pytest.fixture
def v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpu io memory pids")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids")
    (tmp_path / "slice").mkdir()
    (tmp_path / "slice" / "cgroup.subtree_control").write_text("cpu memory pids")
    mkdir = os.mkdir

    def make(path: str, mode: int = 0o777) -> None:
        """A kernel makes the files."""
        mkdir(path, mode)
        for name in ("cgroup.procs", "cgroup.subtree_control", "memory.max", "pids.max", "cpu.max", "cpu.weight",
                     "memory.limit_in_bytes", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares"):  # fmt: skip
            Path(path, name).write_text("")

    monkeypatch.setattr("cloche.runtime.cgroups.os.mkdir", make)
    return tmp_path


@needs_root
def test_version_2(v2: Path) -> None:
    group = create(Limits(memory_bytes=1 << 30, cpus=0.5, tasks=100), str(v2), "0::/slice\n")
    assert group is not None and group.has_memory and group.has_cpu and group.has_tasks
    outer, guests, sentry = (Path(path) for path in group.made)
    assert outer.parent == v2 / "slice" and guests.parent == sentry.parent == outer
    assert group.guests == [str(guests)] and group.sentry == [str(sentry)]
    assert (outer / "cpu.max").read_text() == "50000 100000"
    assert (outer / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert int((guests / "memory.max").read_text()) >= 1 << 30
    assert int((guests / "pids.max").read_text()) >= 100
    assert (sentry / "memory.max").read_text() == "" and (outer / "memory.max").read_text() == ""
    assert group.events == str(guests / "memory.events")


@needs_root
def test_version_2_in_a_group_with_processes(v2: Path) -> None:
    """A scope gives its children no controllers: then at the top."""
    (v2 / "slice" / "cgroup.subtree_control").unlink()
    (v2 / "slice" / "cgroup.subtree_control").mkdir()  # cannot be written
    group = create(Limits(tasks=5), str(v2), "0::/slice\n")
    assert group is not None and Path(group.made[0]).parent == v2 / "cloche"


@needs_root
def test_version_1(v2: Path) -> None:
    (v2 / "cgroup.controllers").unlink()
    for name in ("memory", "cpu"):
        (v2 / name / "own").mkdir(parents=True)
    limits = Limits(memory_bytes=1 << 30, cpus=2, tasks=100)
    group = create(limits, str(v2), "4:memory:/own\n3:cpu:/elsewhere\n2:pids:/own\n")
    assert group is not None and group.has_memory and group.has_cpu and not group.has_tasks
    assert Path(group.made[0]).parent == v2 / "memory" / "own"
    assert Path(group.made[1]).parent == v2 / "cpu"  # a container shows its own part as the whole
    assert (Path(group.made[1]) / "cpu.cfs_quota_us").read_text() == "200000"
    assert len(group.guests) == 2 and len(group.sentry) == 1 and "/cpu/" in group.sentry[0]


@needs_root
def test_nothing_to_be_had(tmp_path: Path) -> None:
    assert create(Limits(cpus=1), str(tmp_path), "") is None
    assert create(Limits(), "/sys/fs/cgroup") is None


def test_sweep(tmp_path: Path) -> None:
    for name in ("cloche-999999999-ab", f"cloche-{os.getpid()}-ab", "cloche-x-ab", "other-999999999-ab"):
        (tmp_path / name / "guests").mkdir(parents=True)
    sweep(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(
        [f"cloche-{os.getpid()}-ab", "cloche-x-ab", "other-999999999-ab"]
    )


FORKING = """
import os, signal, sys, time
if os.fork() == 0:
    for _ in range(400):
        if os.fork() == 0:
            signal.pause()
    signal.pause()
sys.stdout.write("x")
sys.stdout.flush()
signal.pause()
"""


@needs_root
def test_who_is_forked_meanwhile_is_placed() -> None:
    """The sentry's children fork while they are given their places."""
    group = create(Limits(1 << 30, 0, 0))
    if group is None:
        pytest.skip("no control group of memory can be had here")
    words = [sys.executable, "-c", FORKING]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None and process.stdout.read(1) == b"x"
            deadline = time.monotonic() + 60
            while not descendants(process.pid):
                assert time.monotonic() < deadline
            group.place(process.pid)
            while len(below := descendants(process.pid)) < 401:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for path in group.guests:
                inside = {int(word) for word in Path(path, "cgroup.procs").read_text().split()}
                assert set(below) <= inside
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            group.destroy()
