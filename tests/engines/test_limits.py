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
