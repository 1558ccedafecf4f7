"""Changes of limits in a control group above which there are others, beside runc."""

import os
from pathlib import Path

import pytest

from tests.engines.test_bundles import Runtime, make_bundle
from tests.engines.test_exec import own, runtime  # noqa: F401  (the fixture)

CPU = Path("/sys/fs/cgroup/cpu")


def test_period_and_quota_below_a_limit(runtime: Runtime, tmp_path: Path, root: Path) -> None:  # noqa: F811
    """Neither may at any moment give the container more than the group above it has."""
    if not (CPU / "cpu.cfs_quota_us").parent.is_dir() or not os.access(CPU, os.W_OK):
        pytest.skip("no control groups of version 1")
    name, above = own("limit"), own("above")
    pod = CPU / above
    pod.mkdir()
    try:
        if not (pod / "cpu.cfs_quota_us").exists():
            pytest.skip("no control groups of version 1")
        (pod / "cpu.cfs_quota_us").write_text("50000")  # of 100000
        cpu = {"quota": 40000, "period": 100000}
        linux = {"cgroupsPath": f"/{above}/inner", "resources": {"cpu": cpu}}
        runtime.make(name, make_bundle(tmp_path / "b", root, "sleep", "100000", linux=linux))
        assert runtime("start", name).status == 0
        files = pod / "inner" / "cpu.cfs_period_us", pod / "inner" / "cpu.cfs_quota_us"
        assert [int(each.read_text()) for each in files] == [100000, 40000]
        assert runtime("update", "--cpu-quota", "60000", name).status == 1
        assert runtime("update", "--cpu-period", "10000", "--cpu-quota", "6000", name).status == 1
        assert runtime("update", "--cpu-period", "10000", "--cpu-quota", "3000", name).status == 0
        assert [int(each.read_text()) for each in files] == [10000, 3000]
        assert runtime("update", "--cpu-period", "100000", "--cpu-quota", "30000", name).status == 0
        assert [int(each.read_text()) for each in files] == [100000, 30000]
    finally:
        runtime("delete", "--force", name)
        for group in Path("/sys/fs/cgroup").glob(f"*/{above}"):
            for inner in group.glob("inner"):
                inner.rmdir()
            group.rmdir()


def test_real_time_below_a_limit(runtime: Runtime, tmp_path: Path, root: Path) -> None:  # noqa: F811
    """The same for what tasks of real time have of a period."""
    if not (CPU / "cpu.rt_runtime_us").exists() or not os.access(CPU, os.W_OK):
        pytest.skip("no control groups of version 1 with CONFIG_RT_GROUP_SCHED")
    name, above = own("limit"), own("above")
    group = CPU / above / "inner"
    group.mkdir(parents=True)
    try:
        for each in (group.parent, group):
            (each / "cpu.rt_runtime_us").write_text("100000")  # of 1000000
        linux = {"cgroupsPath": f"/{above}/inner"}
        runtime.make(name, make_bundle(tmp_path / "b", root, "sleep", "100000", linux=linux))
        assert runtime("start", name).status == 0
        for period, part in ((100000, 5000), (1000000, 50000)):
            words = ("--cpu-rt-period", str(period), "--cpu-rt-runtime", str(part))
            assert runtime("update", *words, name).status == 0
            values = [int((group / f"cpu.rt_{each}_us").read_text()) for each in ("period", "runtime")]
            assert values == [period, part]
        assert runtime("update", "--cpu-rt-runtime", "200000", name).status == 1
    finally:
        runtime("delete", "--force", name)
        for top in Path("/sys/fs/cgroup").glob(f"*/{above}"):
            for inner in top.glob("inner"):
                inner.rmdir()
            top.rmdir()
