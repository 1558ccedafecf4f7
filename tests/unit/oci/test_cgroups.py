"""The places of control groups and the values written, in a tree that looks like /sys/fs/cgroup."""

import os
from pathlib import Path
from typing import Any

import pytest

from cloche.oci import cgroups
from cloche.oci.errors import OciError
from cloche.oci.spec import check_resources


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    for name in ("memory", "pids", "cpu"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text("")
    return tmp_path


def make(mount: Path, path: str) -> list[str]:
    return cgroups.make(cgroups.places(path, "box", str(mount)), str(mount))


def test_one_directory_in_each_hierarchy(mount: Path) -> None:
    made = make(mount, "/engine/box")
    assert sorted(made) == [str(mount / name / "engine" / "box") for name in ("cpu", "memory", "pids")]
    assert all(Path(path).is_dir() for path in made)
    assert cgroups.group_of(made, "memory", str(mount)) == str(mount / "memory/engine/box")
    assert cgroups.group_of(made, "blkio", str(mount)) == ""
    cgroups.remove(made)
    assert not (mount / "memory/engine/box").exists()


@pytest.mark.parametrize("path", ["/a/../../b", "..", "/"])
def test_paths_that_lead_elsewhere(mount: Path, path: str) -> None:
    with pytest.raises(OciError, match="invalid cgroupsPath"):
        make(mount, path)


def test_systemd_is_refused(mount: Path) -> None:
    with pytest.raises(OciError, match="systemd"):
        make(mount, "system.slice:docker:0123")


def test_groups_that_systemd_has_placed(mount: Path) -> None:
    """In version 1 those that it does not use are made; in version 2 there is one, which is there."""
    text = "5:name=systemd:/a.slice/x.scope\n4:memory:/a.slice/x.scope\n3:pids:/\n0::/a.slice/x.scope\n"
    found = cgroups.places_of_process(text, str(mount))
    assert not (mount / "pids/a.slice").exists()
    made = cgroups.make(found, str(mount))
    assert made == cgroups.paths(found)
    assert sorted(made) == [str(mount / name / "a.slice/x.scope") for name in ("cpu", "memory", "pids")]
    assert all(Path(path).is_dir() for path in made)
    (mount / "cgroup.controllers").write_text("memory\n")
    found = cgroups.places_of_process(text, str(mount))
    assert cgroups.make(found, str(mount)) == cgroups.paths(found) == [str(mount / "a.slice/x.scope")]
    assert not (mount / "a.slice").exists()


def test_limits_have_room_for_our_own(mount: Path) -> None:
    made = make(mount, "/box")
    rows: list[tuple[str, str]] = [
        ("memory", "memory.limit_in_bytes"),
        ("pids", "pids.max"),
        ("cpu", "cpu.shares"),
        ("cpu", "cpu.cfs_quota_us"),
    ]
    for controller, name in rows:
        (mount / controller / "box" / name).write_text("")
    resources: dict[str, Any] = {
        "memory": {"limit": 6 << 20},
        "pids": {"limit": 2},
        "cpu": {"shares": 7, "quota": 9},
    }
    cgroups.limit(made, resources, str(mount))
    written = [(mount / controller / "box" / name).read_text() for controller, name in rows]
    assert written == [str((6 << 20) + cgroups.OVERHEAD_BYTES), str(2 * 2 + cgroups.OVERHEAD_TASKS), "7", "9"]


BLOCK_IO: dict[str, Any] = {
    "weight": 500,
    "leafWeight": 20,
    "weightDevice": [{"major": 8, "minor": 0, "weight": 100, "leafWeight": 30}, {"major": 8, "minor": 1}],
    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}],
    "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 9}],
}


def test_limits_of_devices_in_version_1(mount: Path) -> None:
    """In the files that there are: of those of schedulers the kernel has at most one."""
    (mount / "blkio").mkdir()
    (mount / "blkio/cgroup.procs").write_text("")
    made = make(mount, "/box")
    group = mount / "blkio/box"
    wanted = {
        "bfq.weight": "500",
        "leaf_weight": "20",
        "bfq.weight_device": "8:0 100",
        "leaf_weight_device": "8:0 30",
        "throttle.read_bps_device": "8:0 7",
        "throttle.write_iops_device": "8:16 9",
    }
    for name in wanted:
        (group / f"blkio.{name}").write_text("")
    cgroups.limit(made, {"blockIO": BLOCK_IO}, str(mount))
    assert {name: (group / f"blkio.{name}").read_text() for name in wanted} == wanted
    assert not (group / "blkio.weight").exists()


def test_limits_of_devices_in_version_2(mount: Path) -> None:
    (mount / "cgroup.controllers").write_text("io\n")
    made = make(mount, "/box")
    for name in ("io.weight", "io.max"):
        (mount / "box" / name).write_text("")
    block = {"weight": 1000, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}]}
    cgroups.limit(made, {"blockIO": block}, str(mount))
    assert (mount / "box/io.weight").read_text() == "10000"
    assert (mount / "box/io.max").read_text() == "8:0 rbps=7"


@pytest.mark.parametrize(
    "block, text",
    [
        ({"weight": "x"}, "blockIO.weight"),
        ({"weightDevice": [{"major": -1, "minor": 0}]}, "blockIO.major is out of range"),
        ({"throttleReadBpsDevice": [{"rate": -1}]}, "blockIO.rate is out of range"),
        ({"throttleReadBpsDevice": [7]}, "not an object"),
    ],
)
def test_limits_of_devices_that_are_none(block: Any, text: str) -> None:
    with pytest.raises(OciError) as refusal:
        check_resources({"blockIO": block})
    assert text in str(refusal.value)
    check_resources({"blockIO": BLOCK_IO})


def test_idle_groups(mount: Path) -> None:
    """They have no other weight, which the kernel would refuse."""
    made = make(mount, "/box")
    for name in ("cpu.idle", "cpu.shares"):
        (mount / "cpu/box" / name).write_text("")
    cgroups.limit(made, {"cpu": {"idle": 1, "shares": 7}}, str(mount))
    assert [(mount / "cpu/box" / name).read_text() for name in ("cpu.idle", "cpu.shares")] == ["1", ""]
    cgroups.limit(made, {"cpu": {"idle": 0, "shares": 7}}, str(mount))
    assert [(mount / "cpu/box" / name).read_text() for name in ("cpu.idle", "cpu.shares")] == ["0", "7"]


def test_limits_of_real_time_tasks(mount: Path) -> None:
    made = make(mount, "/box")
    for name in ("cpu.rt_period_us", "cpu.rt_runtime_us"):
        (mount / "cpu/box" / name).write_text("")
    cgroups.limit(made, {"cpu": {"realtimePeriod": 9, "realtimeRuntime": 5}}, str(mount))
    assert (mount / "cpu/box/cpu.rt_period_us").read_text() == "9"
    assert (mount / "cpu/box/cpu.rt_runtime_us").read_text() == "5"


def test_figures(mount: Path) -> None:
    made = make(mount, "/box")
    (mount / "memory/box/memory.usage_in_bytes").write_text("5\n")
    (mount / "memory/box/memory.stat").write_text("cache 3\nrss 2\n")
    (mount / "pids/box/pids.current").write_text("4\n")
    found = cgroups.stats(made, str(mount))
    assert (found["memory"]["usage"]["usage"], found["memory"]["cache"], found["pids"]["current"]) == (
        5,
        3,
        4,
    )


def test_a_frozen_group_is_not_entered(mount: Path) -> None:
    (mount / "freezer/box").mkdir(parents=True)
    (mount / "freezer/cgroup.procs").write_text("")
    (mount / "freezer/box/freezer.state").write_text("FROZEN\n")
    with pytest.raises(OciError, match="container's cgroup unexpectedly frozen"):
        make(mount, "/box")
    assert not (mount / "memory/box").exists()
    (mount / "freezer/box/freezer.state").write_text("THAWED\n")
    assert len(make(mount, "/box")) == 4


def test_the_only_thread_of_a_process_enters_alone(mount: Path) -> None:
    """In version 1, where that takes no lock; a group of version 2 has no file `tasks`."""
    made = make(mount, "/box")
    for path in made:
        (Path(path) / "cgroup.procs").write_text("")
    for path in made[1:]:
        (Path(path) / "tasks").write_text("")
    assert cgroups.ways_in(made) == cgroups.ways_in([]) == []
    ways = cgroups.ways_in(made[1:])
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in ways] == [f"{path}/tasks" for path in made[1:]]
    for fd in ways:
        os.close(fd)
    cgroups.enter(made)
    assert (Path(made[0]) / "cgroup.procs").read_text() == "0"
    for path in made[1:]:
        assert [(Path(path) / name).read_text() for name in ("tasks", "cgroup.procs")] == ["0", ""]
    with pytest.raises(FileNotFoundError):
        cgroups.enter([str(mount / "nowhere")])


def test_unified_limits_want_version_2(mount: Path) -> None:
    made = make(mount, "/box")
    with pytest.raises(OciError, match="invalid configuration"):
        cgroups.limit(made, {"unified": {"memory.low": "1"}}, str(mount))


@pytest.mark.parametrize(
    "given, text",
    [
        ([], ""),
        (["/"], ""),
        (["x/.."], ""),
        (["cpu,memory:/", "pids:"], ""),
        ([".."], ".. is not a sub cgroup path"),
        (["memory:../boxes"], "../boxes is not a sub cgroup path"),
        (["inner"], "inner is not supported"),
        (["pids:other"], "/pids/engine/box/other/cgroup.procs: no such file"),
        (["blkio:/"], "unknown controller blkio"),
        (["../memory:/"], "unknown controller ../memory"),
        (["cpu:a:b"], "invalid --cgroup argument: cpu:a:b"),
        (["cpu:/", "x"], "missing <controller>: prefix"),
    ],
)
def test_groups_of_a_command(mount: Path, given: list[str], text: str) -> None:
    made = make(mount, "/engine/box")
    for path in made:
        (Path(path) / "inner").mkdir()
        (Path(path).parent / "boxes").mkdir()
    if not text:
        cgroups.check_below(made, given, str(mount))
        return
    with pytest.raises(OciError) as refusal:
        cgroups.check_below(made, given, str(mount))
    assert text in str(refusal.value)


def test_groups_of_a_command_in_version_2(mount: Path) -> None:
    (mount / "cgroup.controllers").write_text("memory\n")
    group = mount / "engine" / "box"
    (group / "inner").mkdir(parents=True)
    cgroups.check_below([str(group)], ["/"], str(mount))
    for given, text in (
        ("memory:/", "unknown controller"),
        ("inner", "not supported"),
        ("../x", "not a sub"),
    ):
        with pytest.raises(OciError, match=text):
            cgroups.check_below([str(group)], [given], str(mount))
