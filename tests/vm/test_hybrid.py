"""systemd's driver where the controllers are of version 1."""

from tests.vm.conftest import Guest
from tests.vm.test_bundles import in_bundle


def test_a_scope_and_its_limits(hybrid: Guest) -> None:
    script = """
    test -d /sys/fs/cgroup/memory
    create one
    systemctl show test-one.scope -p MemoryLimit -p TasksMax -p Slice | sort
    at=made.slice/test-one.scope
    cat /sys/fs/cgroup/memory/$at/memory.limit_in_bytes /sys/fs/cgroup/pids/$at/pids.max
    cat /sys/fs/cgroup/cpu/$at/cpu.cfs_quota_us
    $CLOCHE start one; $CLOCHE update --memory 100m one; cat /sys/fs/cgroup/memory/$at/memory.limit_in_bytes
    $CLOCHE delete --force one
    gone test-one.scope; find /sys/fs/cgroup/ -name test-one.scope
    """
    more, tasks = (64 + 256) << 20, 2 * 9 + 128
    assert hybrid.lines(in_bundle(script)) == [
        *(f"MemoryLimit={more}", "Slice=made.slice", f"TasksMax={tasks}"),
        *(str(more), str(tasks), "50000", str((100 + 256) << 20)),
    ]
